// An answer on the page: each thread writes at its place in the text.

import { hue } from "./threads.js";

export class AnswerView {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.element.classList.remove("annotated");
    delete this.element.dataset.state;
    this.places = new Map([["", this.element]]);
    this.plain = [];
  }

  /** Take a thread event: its chunk is made at its place when it starts, and grows there. */
  take(event, thread) {
    const id = event.thread.join(".");
    const place = this.places.get(id) ?? this.open(id, event, thread);
    place.dataset.state = event.state;
    this.write(place, event.text);
  }

  open(id, event, thread) {
    const place = document.createElement("span");
    place.className = "chunk";
    place.title = thread.name;
    place.dataset.thread = id;
    place.style.setProperty("--hue", hue(thread.number));
    this.places.get(event.parent.join(".")).append(place);
    this.places.set(id, place);
    return place;
  }

  write(place, text) {
    if (!text) return;
    const follows = this.element.scrollTop + this.element.clientHeight > this.element.scrollHeight - 40;
    if (place.lastChild?.nodeType === Node.TEXT_NODE) place.lastChild.appendData(text);
    else place.append(text);
    if (follows) this.element.scrollTop = this.element.scrollHeight;
  }

  end() {
    for (const place of this.places.values()) place.dataset.state = "done";
  }

  /** Show the text with its tags instead, or the threads' texts again. */
  showAnnotated(annotated) {
    if (annotated === null) {
      this.element.replaceChildren(...this.plain);
    } else {
      this.plain = [...this.element.childNodes];
      this.element.replaceChildren(annotated);
    }
    this.element.classList.toggle("annotated", annotated !== null);
  }
}
