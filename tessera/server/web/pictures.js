// Pictures before they are sent: which files are taken, what the model will see of each, and what it costs.
// The grid is the model's own arithmetic (`grid_of` in tessera/images.py). Pictures are shown as the server
// prepares them, upright, on white, and of an animation the first frame, so that what is seen is what is asked.

import { button, byId, element } from "./dom.js";

const UNSEEN = /\.(heic|heif|tiff?)$/i; // the server may read these although the browser cannot show them
const GRID_COLOUR = "rgb(255 64 64 / 0.65)"; // that of `tessera tokens --plot`
const MAX_ENLARGEMENT = 3;

export const number = (value) => value.toLocaleString("en-US");

/** Rows and columns of tokens for a picture of this size. */
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

/** A picture from a file; throws an Error of one sentence when it cannot be one. */
export async function readPicture(file, config) {
  const name = file.name || "pasted picture";
  if (file.size > config.max_image_bytes) {
    throw new Error(
      `${name} has ${number(file.size)} bytes and the limit is ${number(config.max_image_bytes)}; choose a smaller file.`,
    );
  }
  const picture = { file, name, view: null, tokens: 0 };
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // upright: the browser applies the rotation of the camera
  } catch {
    if (UNSEEN.test(name)) return picture;
    throw new Error(`${name} is not a picture that can be read; choose a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file.`);
  }
  const grid = gridOf(bitmap.width, bitmap.height, config);
  Object.assign(picture, grid, { width: bitmap.width, height: bitmap.height, tokens: tokenCount(grid) });
  picture.view = draw(bitmap, grid.columns * tokenSize(config), grid.rows * tokenSize(config));
  bitmap.close();
  return picture;
}

/** The whole file, as the server takes it: the model's own resizing happens there. Kept for later turns. */
export function dataUrl(picture) {
  picture.url ??= new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${picture.name} can no longer be read; add it again.`));
    reader.readAsDataURL(picture.file);
  });
  return picture.url;
}

/** A list item that shows the picture, opens it large, and, where `onRemove` is given, takes it away. */
export function pictureItem(picture, onRemove) {
  const cost = picture.view ? `${number(picture.tokens)} tokens` : "not shown here";
  const face = picture.view ? thumbnail(picture.view) : element("span", { class: "unseen" }, extension(picture.name));
  const open = button(face, { class: "thumbnail", "aria-label": `${picture.name}, ${cost}, show with its patch grid` }, () =>
    openViewer(picture),
  );
  open.disabled = !picture.view;
  const item = element("li", { class: "picture" }, open, element("span", { class: "cost" }, cost));
  if (onRemove) item.append(button("×", { class: "remove", "aria-label": `Remove ${picture.name}` }, onRemove));
  return item;
}

const extension = (name) => name.split(".").pop().toUpperCase();

function thumbnail(view) {
  const side = 320; // twice the largest size it is shown at, for dense screens
  const scale = Math.min(side / Math.max(view.width, view.height), 1);
  return draw(view, Math.max(Math.round(view.width * scale), 1), Math.max(Math.round(view.height * scale), 1));
}

function draw(source, width, height) {
  const canvas = element("canvas", { width, height, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // where the picture is transparent, the model sees white
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, 0, 0, width, height);
  return canvas;
}

function openViewer(picture) {
  const viewer = byId("viewer");
  const overlay = element("canvas", { class: "grid", "aria-hidden": "true" });
  const { view, rows, columns } = picture;
  byId("viewer-name").textContent = picture.name;
  const scaled = view.width < picture.width || view.height < picture.height ? ", scaled down" : "";
  const first = picture.file.type === "image/gif" ? " Of an animation the first frame is read." : "";
  byId("viewer-facts").textContent =
    `${number(picture.width)} × ${number(picture.height)} pixels, read as ${number(view.width)} × ${number(view.height)}` +
    `${scaled}: ${rows} rows × (${columns} patches + 1) = ${number(picture.tokens)} tokens.${first}`;
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
    drawGrid(overlay, width, height, picture);
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
