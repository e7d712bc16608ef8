// When each thread wrote, as SVG: steps to the right, threads downwards in the order in which they started.

import { hue } from "./threads.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;
const LEFT = 170;
const ROW = 22;
const TOP = 24;
const LONGEST_NAME = 24;

function node(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export class Timeline {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.element.setAttribute("aria-label", "Timeline of the threads: nothing has been written yet");
  }

  /** Draw all threads so far, on the scale of `steps`. */
  draw(threads, steps) {
    const height = TOP + threads.count * ROW;
    const x = (step) => LEFT + (step / Math.max(steps, 1)) * (WIDTH - LEFT - 10);
    const svg = node("svg", { viewBox: `0 0 ${WIDTH} ${height}`, "aria-hidden": "true" }, hatched());
    svg.append(...axis(steps, height, x), ...[...threads.all.values()].map((thread) => row(thread, x)));
    this.element.replaceChildren(svg);
    const told = [...threads.all.values()].map((thread) => `${thread.name}, ${spanOf(thread)}`).join("; ");
    this.element.setAttribute("aria-label", `Timeline of the threads in steps: ${told}`);
  }
}

function spanOf(thread) {
  return `${thread.spans[0]?.start ?? 0} to ${thread.spans.at(-1)?.end ?? 0}`;
}

function hatched() {
  const pattern = node("pattern", { id: "hatched", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
  pattern.append(node("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "hatch" }));
  return node("defs", {}, pattern);
}

function axis(steps, height, x) {
  const marks = [0, 0.25, 0.5, 0.75, 1].map((share) => Math.round(share * steps));
  return [...new Set(marks)].flatMap((step) => [
    node("line", { x1: x(step), x2: x(step), y1: TOP - 6, y2: height, class: "axis" }),
    node("text", { x: x(step), y: 12, "text-anchor": "middle", class: "axis-text" }, String(step)),
  ]);
}

function row(thread, x) {
  const y = TOP + thread.number * ROW;
  const name = thread.name.length > LONGEST_NAME ? `${thread.name.slice(0, LONGEST_NAME - 1)}…` : thread.name;
  const group = node("g", { "data-thread": thread.name }, node("title", {}, `${thread.name}: ${spanOf(thread)}`));
  group.style.setProperty("--hue", hue(thread.number));
  group.append(node("text", { x: 0, y: y + 14 }, name));
  for (const span of thread.spans) {
    const width = Math.max(2, x(span.end) - x(span.start));
    const kind = span.state === "waiting" ? "waits" : "writes";
    group.append(node("rect", { x: x(span.start), y: y + 3, width, height: ROW - 8, rx: 2, class: kind }));
  }
  return group;
}
