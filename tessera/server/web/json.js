// Lays JSON out over lines without touching a letter of its values: parsing and writing it again would change
// numbers (15.00 to 15) and drop keys that come twice. Works on a beginning of JSON too, as it streams.

const PART = /"(?:[^"\\]|\\[\s\S])*"?|[{}[\],:]|[^\s"{}[\],:]+|\s+/g;
const STEP = "  ";

export function indented(text) {
  const parts = (text.match(PART) ?? []).filter((part) => part.trim());
  let depth = 0;
  let made = "";
  const newLine = () => "\n" + STEP.repeat(Math.max(depth, 0));
  parts.forEach((part, index) => {
    if (part === "{" || part === "[") {
      depth += 1;
      made += part;
      if (index + 1 < parts.length && !isClosing(parts[index + 1])) made += newLine();
    } else if (isClosing(part)) {
      depth -= 1;
      made += (isOpening(parts[index - 1]) ? "" : newLine()) + part;
    } else if (part === ",") made += part + newLine();
    else made += part === ":" ? ": " : part;
  });
  return made;
}

const isOpening = (part) => part === "{" || part === "[";
const isClosing = (part) => part === "}" || part === "]";
