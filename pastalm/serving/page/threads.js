// The threads of one answer, from the thread events of the API.

const GOLDEN_ANGLE = 137.5;

/** A colour for a thread; neighbours differ. */
export function hue(number) {
  return (20 + number * GOLDEN_ANGLE) % 360;
}

/** A thread's id as people count: main, 1, 2, 2.1 .. */
export function nameOf(event) {
  if (event.thread.length === 0) return "main";
  return `${event.thread.map((step) => step + 1).join(".")} ${event.topic}`;
}

/** What is known of all threads: their spans of writing and of waiting, in steps. */
export class Threads {
  constructor() {
    this.all = new Map();
    this.steps = 0;
  }

  take(event) {
    const id = event.thread.join(".");
    if (!this.all.has(id)) this.all.set(id, { name: nameOf(event), number: this.all.size, state: "writing", spans: [] });
    const thread = this.all.get(id);
    this.steps = Math.max(this.steps, event.step);
    const span = thread.spans.at(-1);
    if (!span || thread.state !== event.state) {
      if (span) span.end = event.step;
      if (event.state !== "done") thread.spans.push({ state: event.state, start: event.step, end: event.step });
    } else {
      span.end = event.step;
    }
    thread.state = event.state;
    return thread;
  }

  /** How many threads there have been. */
  get count() {
    return this.all.size;
  }
}
