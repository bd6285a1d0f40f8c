// Data, and the few helpers that all of the page uses. Texts reach the page as text nodes and attributes only, never as HTML.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const PICTURES = JSON.parse(document.getElementById("pictures").textContent);
const STOP = "stop";

// el("p", {class: "note", onclick: f}, "text", child ...)
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

function signed(value, digits = 3) {
  const text = number(value, digits);
  return value > 0 && Number(text) !== 0 ? "+" + text : text;
}

// The four digits that say most: 0.0123, 1.234, 123.4
function brief(value) {
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

function digits(metric) {
  return DATA.digits[metric];
}

// A picture of known place in PICTURES, or a box that says that there is none.
function picture(place, alt, width, height) {
  if (place === null || place === undefined) return el("span", { class: "missing", role: "img", "aria-label": `${alt}: no picture` }, "no picture");
  return el("img", { src: "data:image/webp;base64," + PICTURES[place], alt, width, height, draggable: "false", decoding: "async" });
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
}

// A name that may break behind its signs.
function breakable(name) {
  return name.split(/(?<=[/_ ])/).flatMap((part) => [part, el("wbr")]);
}

function duration(seconds) {
  return seconds < 1 ? `${brief(Number((1000 * seconds).toPrecision(2)))} ms` : `${brief(seconds)} s`;
}

function plural(count, word) {
  return `${count} ${count === 1 ? word : word.replace(/y$/, "ie") + "s"}`;
}
