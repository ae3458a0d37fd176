// The pictures to try on an empty page: small, served by this server, each with a question that suits it.

import { button, byId, element } from "./dom.js";
import { readPicture, thumbnail } from "./pictures.js";

const DEMOS = [
  ["chart.png", "Chart", "Which bar is highest?"],
  ["receipt.png", "Receipt", "Give vendor, date and total as JSON."],
];
const SIDE = 72;

/** `onTry` is given a picture and its question. A server without the pictures shows none. */
export async function showDemos(config, onTry) {
  const chips = await Promise.all(
    DEMOS.map(async ([name, title, question]) => {
      const response = await fetch(`web/demo/${name}`).catch(() => null);
      if (!response?.ok) return null;
      const file = new File([await response.blob()], name, { type: "image/png" });
      const picture = await readPicture(file, config).catch(() => null);
      if (!picture) return null; // more than this server takes
      const words = element("span", { class: "words" }, element("strong", {}, title), question);
      const face = element("span", { class: "face" }, thumbnail(picture.view, SIDE, SIDE));
      const chip = button("", { class: "demo" }, () => onTry(picture, question));
      chip.append(face, words);
      return chip;
    }),
  );
  byId("demos").replaceChildren(...chips.filter(Boolean));
}
