// The images to try on an empty page: small, served by this server, each with a question that suits it.

import { button, byId, element } from "./dom.js";
import { readImage, thumbnail } from "./images.js";

const DEMOS = [
  ["chart.png", "Chart", "Which bar is highest?"],
  ["receipt.png", "Receipt", "Give vendor, date and total as JSON."],
];
const SIDE = 72;

/** `onTry` is given an image and its question. A server without the images shows none. */
export async function showDemos(config, onTry) {
  const chips = await Promise.all(
    DEMOS.map(async ([name, title, question]) => {
      const response = await fetch(`web/demo/${name}`).catch(() => null);
      if (!response?.ok) return null;
      const file = new File([await response.blob()], name, { type: "image/png" });
      const image = await readImage(file, config).catch(() => null);
      if (!image) return null; // more than this server takes
      const words = element("span", { class: "words" }, element("strong", {}, title), question);
      const face = element("span", { class: "face" }, thumbnail(image.view, SIDE, SIDE));
      const chip = button("", { class: "demo" }, () => onTry(image, question));
      chip.append(face, words);
      return chip;
    }),
  );
  byId("demos").replaceChildren(...chips.filter(Boolean));
}
