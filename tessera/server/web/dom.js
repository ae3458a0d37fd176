// Makes elements. Text always arrives as text nodes, so nothing a model or a file name says can become markup.

/** element("p", {class: "note", "aria-label": "..."}, "text", child, ...); attributes that are null are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A button that does one thing. */
export function button(label, attributes, onClick) {
  const made = element("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", onClick);
  return made;
}

export const byId = (id) => document.getElementById(id);
