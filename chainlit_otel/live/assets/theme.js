// A classic script in the head: the theme that was chosen is there before anything is painted.
"use strict";

(() => {
  const NAMES = { auto: "Auto", light: "Light", dark: "Dark" };
  const ORDER = Object.keys(NAMES);
  const root = document.documentElement;

  // Storage may be forbidden, and then the choice lasts as long as the page.
  let chosen = "auto";
  try {
    chosen = localStorage.getItem("chainlit-otel-theme") ?? "auto";
  } catch {}
  if (!(chosen in NAMES)) chosen = "auto";
  root.dataset.theme = chosen;

  function choose(name) {
    chosen = name;
    root.dataset.theme = name;
    try {
      localStorage.setItem("chainlit-otel-theme", name);
    } catch {}
    changed();
  }

  // What is drawn on a canvas has to be drawn again.
  const changed = () => document.dispatchEvent(new Event("themechange"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);

  // Paper is white, whatever the screen is.
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    changed();
  });
  addEventListener("afterprint", () => {
    root.dataset.theme = chosen;
    changed();
  });

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => (button.querySelector("#theme-name").textContent = NAMES[chosen]);
    button.addEventListener("click", () => {
      choose(ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length]);
      say();
    });
    say();
  });
})();
