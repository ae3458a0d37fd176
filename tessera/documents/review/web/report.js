// A report's own beginning: its data are in the file, and corrections are kept under its digest.

import { startReview } from "./review.js";

function openReport() {
  const textOfScript = (id) => document.getElementById(id).textContent;
  const facts = JSON.parse(textOfScript("facts"));
  const places = new Map(facts.images.map(({ document: name, page, width, height }, index) => [JSON.stringify([name, page]), { index, width, height }]));
  const imageOf = async (name, page) => {
    const found = places.get(JSON.stringify([name, page]));
    return found ? { src: `data:image/jpeg;base64,${textOfScript(`image-${found.index}`)}`, width: found.width, height: found.height } : null;
  };
  let shelf = null;
  try {
    shelf = localStorage;
  } catch {
    // barred, as in some private windows: corrections last as long as the page, and it says so
  }
  const review = startReview(document.getElementById("review"), { ...facts, imageOf, shelf });
  review.add(textOfScript("records").split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line)));
}

openReport();
