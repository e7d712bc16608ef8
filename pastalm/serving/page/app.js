// The page: asks for an answer in both ways at once and shows both while they are written.

import { AnswerView } from "./answer.js";
import { Refused, servedModel, stream } from "./api.js";
import { Threads } from "./threads.js";
import { Timeline } from "./timeline.js";

// What the bundled model knows; every other model is asked everyday questions.
const TASKS = [
  "Write a short profile of each of these 4 people. Use bullets.\nJane: job baker, age 29, home Turin\nOmar: job pilot, age 41, home Kyoto\nKira: job nurse, age 35, home Lima\nBen: job writer, age 52, home Oslo",
  "Reverse these. Show the letters one by one before and after. river; stone; cloud; bread; paper",
  "Describe Oslo, Lima and Kyoto.",
];
const QUESTIONS = [
  "How can I improve my memory?",
  "What are the benefits of reading books?",
  "Give me tips for saving money.",
];

const find = (selector) => document.querySelector(selector);
const form = find("#ask");
const status = find("#status");
const annotatedBox = find("#annotated");
const timeline = new Timeline(find("#timeline"));
let model = null;
let running = null; // aborts the answers that are being written

/** One of the two answers: its text, its threads and its counters. */
class Column {
  constructor(mode) {
    this.mode = mode;
    this.element = find(`#${mode}`);
    this.view = new AnswerView(this.element.querySelector(".answer"));
    this.clear();
  }

  clear() {
    this.view.clear();
    this.threads = new Threads();
    this.figures = null;
    this.started = performance.now();
    this.seconds = 0;
    this.count();
  }

  /** Ask, and show the answer while it comes. */
  async run(body, signal) {
    this.view.element.dataset.state = "writing";
    try {
      for await (const chunk of stream({ ...body, mode: this.mode, annotated: true }, find("#key").value, signal)) {
        this.take(chunk.pasta ?? {});
      }
    } finally {
      this.view.end();
    }
  }

  take(pasta) {
    for (const event of pasta.events ?? []) this.view.take(event, this.threads.take(event));
    if (pasta.critical_path !== undefined) {
      this.figures = pasta;
      this.threads.steps = pasta.critical_path;
    }
    this.seconds = (performance.now() - this.started) / 1000;
    this.count();
    if (this.mode === "async") timeline.draw(this.threads, Math.max(this.threads.steps, columns.sequential.threads.steps));
  }

  count() {
    const shown = { steps: this.threads.steps, seconds: this.seconds.toFixed(1), threads: this.threads.count };
    for (const [name, value] of Object.entries(shown)) {
      const place = this.element.querySelector(`.${name}`);
      if (place) place.textContent = value;
    }
  }
}

const columns = { async: new Column("async"), sequential: new Column("sequential") };

function say(message, error = false) {
  status.textContent = message;
  status.classList.toggle("error", error);
}

function request() {
  return {
    model,
    messages: [{ role: "user", content: find("#prompt").value }],
    promise_bias: Number(find("#promise-bias").value),
    max_tokens: Number(find("#max-tokens").value),
    pasta: { events: true },
  };
}

function summary() {
  const { async: fast, sequential: slow } = columns;
  const wrote = `Done in ${fast.threads.steps} steps with ${fast.threads.count} threads`;
  if (!slow.figures) return `${wrote}.`;
  const tokens = slow.threads.steps;
  return `${wrote}; one token after the other took ${tokens} steps (${(tokens / Math.max(1, fast.threads.steps)).toFixed(2)} times as many).`;
}

async function ask() {
  if (running) return;
  running = new AbortController();
  const compare = find("#compare").checked;
  const asked = compare ? [columns.async, columns.sequential] : [columns.async];
  setRunning(true);
  Object.values(columns).forEach((column) => column.clear());
  timeline.clear();
  annotatedBox.checked = false;
  say("Writing ..");
  try {
    model ??= await identify();
    await Promise.all(asked.map((column) => column.run(request(), running.signal)));
    say(summary());
  } catch (error) {
    const stopped = error.name === "AbortError";
    running.abort();
    say(stopped ? "Stopped." : error.message, !stopped);
    if (error instanceof Refused && error.status === 401) askForKey();
  } finally {
    running = null;
    setRunning(false);
    annotatedBox.disabled = !columns.async.figures;
  }
}

function setRunning(on) {
  find("#go").disabled = on;
  find("#stop").disabled = !on;
  if (on) annotatedBox.disabled = true;
  find("#answers").setAttribute("aria-busy", on);
}

function askForKey() {
  find("#key-control").hidden = false;
  find("#key").focus();
}

async function identify() {
  const name = await servedModel(find("#key").value);
  find("#model").textContent = `Model: ${name}.`;
  addExamples(name === "bundled" ? TASKS : QUESTIONS);
  return name;
}

function addExamples(texts) {
  find("#examples").replaceChildren();
  for (const text of texts) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text.split("\n")[0];
    button.addEventListener("click", () => {
      find("#prompt").value = text;
      find("#prompt").focus();
    });
    find("#examples").append(button);
  }
  find("#prompt").value ||= texts[0];
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
find("#prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
find("#stop").addEventListener("click", () => running?.abort());
find("#promise-bias").addEventListener("input", (event) => {
  find("#promise-bias-value").textContent = event.target.value;
});
annotatedBox.addEventListener("change", () => {
  columns.async.view.showAnnotated(annotatedBox.checked ? columns.async.figures.annotated : null);
});

identify().then(
  (name) => {
    model = name;
  },
  (error) => (error.status === 401 ? askForKey() : say(error.message, true)),
);
