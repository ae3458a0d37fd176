// Says what this server is: its model, its limits, and how a program asks it. A key is never shown.

import { byId, codeBlock, element } from "./dom.js";
import { number } from "./images.js";

export function startAbout(state) {
  const dialog = byId("about");
  const open = () => {
    const { config, model } = state();
    if (config) fill(config, model);
    dialog.showModal();
  };
  byId("about-button").addEventListener("click", open);
  byId("demo-badge").addEventListener("click", open);
  byId("about-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

function fill(config, model) {
  byId("about-demo").hidden = !config.bundled;
  const facts = [
    ["Model", model ?? config.model],
    ["Context", `${number(config.max_model_len)} tokens for a conversation, images included`],
    ["Images", `up to ${number(config.max_images)} in a conversation, read at up to ` +
      `${number(config.image_size)} pixels a side; larger ones are scaled down`],
    ["Tessera", config.version],
  ];
  byId("about-facts").replaceChildren(
    ...facts.flatMap(([name, fact]) => [element("dt", {}, name), element("dd", {}, fact)]),
  );
  const address = new URL("v1", location.href).href;
  const key = config.needs_key ? ' -H "Authorization: Bearer $KEY"' : "";
  byId("about-example").replaceChildren(codeBlock(`curl${key} ${address}/models`, "A command"));
  // With keys in use a browser cannot open the list of routes: a link sends no key.
  byId("about-links").querySelector("a").hidden = config.needs_key;
}
