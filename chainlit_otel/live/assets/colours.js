// The colours of the style sheet, for what is drawn on a canvas.

const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

let known = new Map();
document.addEventListener("themechange", () => (known = new Map()));

/** Return the colour that the style sheet gives the name `--NAME` in the present theme. */
export function colour(name) {
  if (!known.has(name)) {
    probe.style.color = `var(--${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}
