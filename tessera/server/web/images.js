// Images before they are sent: which files are taken, what the model will see of each, and what it costs.
// The grid is the model's own arithmetic (`grid_of` in tessera/images.py). Images are shown as the server
// prepares them, upright, on white, and of an animation the first frame, so that what is seen is what is asked.

import { button, byId, element } from "./dom.js";

const UNSEEN = /\.(heic|heif|tiff?)$/i; // the server may read these although the browser cannot show them
const GRID_COLOUR = "rgb(255 64 64 / 0.65)"; // that of `tessera tokens --plot`
const MAX_ENLARGEMENT = 3;
const SENT_TIMES = 2; // an image that is too large is sent at this many times the side that the model sees
const JPEG_QUALITY = 0.95;
const GRID_ICON = "M1.5 1.5h13v13h-13zM1.5 5.8h13M1.5 10.2h13M5.8 1.5v13M10.2 1.5v13";

export const number = (value) => value.toLocaleString("en-US");

/** Rows and columns of tokens for an image of this size. */
export function gridOf(width, height, config) {
  const scale = Math.max(width, height) / config.image_size;
  if (scale > 1) {
    // An extreme shape would round its short side to nothing: one pixel is the least.
    width = Math.max(roundHalfEven(width / scale), 1);
    height = Math.max(roundHalfEven(height / scale), 1);
  }
  const size = tokenSize(config);
  return { rows: Math.ceil(height / size), columns: Math.ceil(width / size) };
}

/** A break ends each row, an end token the last. */
export const tokenCount = ({ rows, columns }) => rows * (columns + 1);

const tokenSize = (config) => config.patch_size * config.spatial_merge_size;

/** Python's round(), which the model's arithmetic is written in; Math.round would lift every half. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/**
 * An image from a file, made smaller where the server would refuse it, which `scaled` then says in a sentence.
 * Throws an Error of one sentence when it cannot be one.
 */
export async function readImage(file, config) {
  const name = file.name || "pasted image";
  if (file.type === "application/pdf" || /\.pdf$/i.test(name)) {
    throw new Error(
      `${name} is a PDF, and only images are read here: make images of its pages first, for example with ` +
        `"pdftoppm -png ${name} page", or add a screenshot.`,
    );
  }
  const image = { file, name, view: null, tokens: 0 };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // upright: the browser applies the rotation of the camera
  } catch {
    if (UNSEEN.test(name) && file.size <= config.max_image_bytes) return image;
    if (UNSEEN.test(name)) throw tooHeavy(name, file, config);
    throw new Error(`${name} is not an image that can be read; choose a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file.`);
  }
  const grid = gridOf(bitmap.width, bitmap.height, config);
  Object.assign(image, grid, { width: bitmap.width, height: bitmap.height, tokens: tokenCount(grid) });
  image.view = draw(bitmap, grid.columns * tokenSize(config), grid.rows * tokenSize(config));
  try {
    if (bitmap.width * bitmap.height > config.max_image_pixels || file.size > config.max_image_bytes) {
      await scaleDown(image, bitmap, config);
    }
  } finally {
    bitmap.close();
  }
  return image;
}

/** The model sees `image_size` pixels a side at most, so nothing it could read is lost. */
async function scaleDown(image, bitmap, config) {
  const { file, name } = image;
  const scale = Math.min((SENT_TIMES * config.image_size) / Math.max(bitmap.width, bitmap.height), 1);
  const width = Math.max(Math.round(bitmap.width * scale), 1);
  const height = Math.max(Math.round(bitmap.height * scale), 1);
  const canvas = draw(bitmap, width, height);
  const kept = file.type === "image/png" ? await encoded(canvas, "image/png") : null;
  const blob = kept && kept.size <= config.max_image_bytes ? kept : await encoded(canvas, "image/jpeg");
  if (!blob || blob.size > config.max_image_bytes) throw tooHeavy(name, file, config);
  image.file = new File([blob], name, { type: blob.type });
  const megapixels = (bitmap.width * bitmap.height) / 1e6;
  const much = megapixels >= 1 ? `${number(Math.round(megapixels))} megapixels` : `${number(file.size)} bytes`;
  image.scaled =
    `The image ${name} is ${much}: it was scaled down to ${number(width)} × ${number(height)}, ` +
    "which is more than the model sees.";
}

const encoded = (canvas, type) => new Promise((resolve) => canvas.toBlob(resolve, type, JPEG_QUALITY));

const tooHeavy = (name, file, config) =>
  new Error(
    `${name} has ${number(file.size)} bytes and the limit is ${number(config.max_image_bytes)}; choose a smaller file.`,
  );

/** The whole file, as the server takes it: the model's own resizing happens there. Kept for later turns. */
export function dataUrl(image) {
  image.url ??= new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${image.name} can no longer be read; add it again.`));
    reader.readAsDataURL(image.file);
  });
  return image.url;
}

/** A list item that shows the image, opens it large, and, where `onRemove` is given, takes it away. */
export function imageItem(image, onRemove) {
  const cost = image.view ? `${number(image.tokens)} tokens` : "not shown here";
  const [width, height] = onRemove ? [144, 76] : [320, 208]; // while it waits, and beside its question
  const face = image.view ? thumbnail(image.view, width, height) : element("span", { class: "unseen" }, extension(image.name));
  const label = { "aria-label": `${image.name}, ${cost}, show with its patch grid`, title: "Show the patches that the model reads" };
  const open = button(face, { class: "thumbnail", ...label }, () => openViewer(image));
  open.disabled = !image.view;
  const caption = element("span", { class: "caption" }, element("span", { class: "cost" }, cost));
  // What a look at the image alone would not tell: that it opens. The image's own button is the one to tab to.
  const hint = button(gridIcon(), { class: "hint", tabindex: "-1", "aria-hidden": "true" }, () => openViewer(image));
  if (!onRemove) hint.append("patches");
  if (image.view) caption.append(hint);
  const item = element("li", { class: "image" }, open, caption);
  if (onRemove) item.append(button("×", { class: "remove", "aria-label": `Remove ${image.name}` }, onRemove));
  return item;
}

const extension = (name) => name.split(".").pop().toUpperCase();

function gridIcon() {
  const svg = "http://www.w3.org/2000/svg";
  const icon = document.createElementNS(svg, "svg");
  const path = document.createElementNS(svg, "path");
  icon.setAttribute("viewBox", "0 0 16 16");
  icon.setAttribute("class", "icon");
  icon.setAttribute("aria-hidden", "true");
  path.setAttribute("d", GRID_ICON);
  icon.append(path);
  return icon;
}

/** The image in its own shape, within these CSS pixels, as sharp as this screen can show it. */
export function thumbnail(view, maxWidth, maxHeight) {
  const scale = Math.min(maxWidth / view.width, maxHeight / view.height, 1);
  const side = (length, dense) => Math.max(Math.round(length * scale * dense), 1);
  const density = Math.min(devicePixelRatio, 1 / scale); // beyond its own pixels there is nothing to show
  const canvas = draw(view, side(view.width, density), side(view.height, density));
  canvas.style.width = `${side(view.width, 1)}px`;
  return canvas;
}

/** Drawn smaller in halves: in one step a browser skips pixels, and small print falls apart. */
function draw(source, width, height) {
  let from = source;
  while (from.width >= 2 * width && from.height >= 2 * height && (from.width > 2 * width || from.height > 2 * height)) {
    from = drawn(from, Math.ceil(from.width / 2), Math.ceil(from.height / 2));
  }
  return drawn(from, width, height);
}

function drawn(source, width, height) {
  const canvas = element("canvas", { width, height, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // where the image is transparent, the model sees white
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, 0, 0, width, height);
  return canvas;
}

function openViewer(image) {
  const viewer = byId("viewer");
  const overlay = element("canvas", { class: "grid", "aria-hidden": "true" });
  const { view, rows, columns } = image;
  byId("viewer-name").textContent = image.name;
  const scaled = view.width < image.width || view.height < image.height ? ", scaled down" : "";
  const first = image.file.type === "image/gif" ? " Of an animation the first frame is read." : "";
  byId("viewer-facts").textContent =
    `${number(image.width)} × ${number(image.height)} pixels, read as ${number(view.width)} × ${number(view.height)}` +
    `${scaled}: ${rows} rows × (${columns} patches + 1) = ${number(image.tokens)} tokens.${first}`;
  byId("viewer-stage").replaceChildren(view, overlay);
  viewer.showModal();

  const fit = () => {
    const scale = Math.min((innerWidth - 48) / view.width, (innerHeight - 190) / view.height, MAX_ENLARGEMENT);
    const width = Math.max(Math.floor(view.width * scale), 1);
    const height = Math.max(Math.floor(view.height * scale), 1);
    for (const canvas of [view, overlay]) {
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    drawGrid(overlay, width, height, image);
  };
  fit();
  addEventListener("resize", fit);
  viewer.addEventListener("close", () => removeEventListener("resize", fit), { once: true });
}

/** Lines one screen pixel wide, whatever the scale. */
function drawGrid(overlay, width, height, { rows, columns }) {
  overlay.width = Math.round(width * devicePixelRatio);
  overlay.height = Math.round(height * devicePixelRatio);
  const pen = overlay.getContext("2d");
  pen.strokeStyle = GRID_COLOUR;
  const edge = (part, parts, length) => Math.min(Math.round((part * length) / parts), length - 1) + 0.5;
  pen.beginPath();
  for (let row = 0; row <= rows; row += 1) {
    const y = edge(row, rows, overlay.height);
    pen.moveTo(0, y);
    pen.lineTo(overlay.width, y);
  }
  for (let column = 0; column <= columns; column += 1) {
    const x = edge(column, columns, overlay.width);
    pen.moveTo(x, 0);
    pen.lineTo(x, overlay.height);
  }
  pen.stroke();
}

/** The viewer's own controls, once. */
export function startViewer() {
  const viewer = byId("viewer");
  byId("viewer-grid").addEventListener("change", (event) =>
    byId("viewer-stage").classList.toggle("bare", !event.target.checked),
  );
  byId("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close()); // beside the dialog
}
