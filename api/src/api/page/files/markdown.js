// Markdown that grows: the server renders what there is a few times a second; what has come since stands behind it as
// plain text, and so does everything while the server does not answer.

import { copyButton, element } from "./dom.js";
import { Backoff, Refusal, pause, rendered } from "./server.js";

const GAP = 200; // ms between two renderings of one text; more where they take long
const REMEMBERED = 300; // renderings of finished texts

// The only HTML that ever becomes elements is the server's, which has sanitised it; the page's policy allows no other.
const policy = globalThis.trustedTypes?.createPolicy("headrace-markdown", { createHTML: (html) => html }) ?? {
  createHTML: (html) => html,
};
const memory = new Map();

export class Markdown {
  #text = "";
  #shown = ""; // the part of the text that stands rendered
  #final = false;
  #busy = false;
  #backoff = new Backoff();

  constructor(container) {
    this.container = container;
  }

  get text() {
    return this.#text;
  }

  /** `final`: the text is whole; its rendering is tried until it succeeds. */
  set(text, final) {
    if (text === this.#text && final === this.#final) return;
    this.#text = text;
    this.#final = final;
    if (memory.has(text)) this.#show(text, memory.get(text));
    else {
      this.#tail();
      this.#render();
    }
  }

  async #render() {
    if (this.#busy || !this.#text.trim() || this.#shown === this.#text) return;
    this.#busy = true;
    const text = this.#text;
    const began = performance.now();
    let wait;
    try {
      const html = memory.get(text) ?? (await rendered(text));
      if (this.#final && text === this.#text) remember(text, html);
      if (this.#text.startsWith(text)) this.#show(text, html);
      this.#backoff.reset();
      wait = this.#final ? 0 : Math.max(GAP, 5 * (performance.now() - began)); // the end of a text, at once
    } catch (error) {
      if (error instanceof Refusal && !error.retryable) return; // too long, too deep: the rest of it stays plain
      wait = Math.max(GAP, this.#backoff.after(error));
    }
    await pause(wait);
    this.#busy = false;
    if (this.container.isConnected) this.#render();
  }

  #show(text, html) {
    this.#shown = text;
    this.container.classList.remove("plain");
    this.container.innerHTML = policy.createHTML(html);
    for (const block of this.container.querySelectorAll("pre")) frame(block);
    this.#tail();
  }

  /** What is not rendered yet, as text in the last paragraph, item or block of what is. */
  #tail() {
    if (!this.#text.startsWith(this.#shown)) this.#shown = "";
    if (this.#shown === "") {
      this.container.classList.add("plain");
      this.container.textContent = this.#text;
      return;
    }
    this.container.querySelector(".tail")?.remove();
    const rest = this.#text.slice(this.#shown.length);
    if (rest) lastOf(this.container).append(element("span", { class: "tail" }, rest));
  }
}

function remember(text, html) {
  memory.set(text, html);
  if (memory.size > REMEMBERED) memory.delete(memory.keys().next().value);
}

const HOLDERS = new Set(["P", "LI", "UL", "OL", "BLOCKQUOTE", "H1", "H2", "H3", "H4", "H5", "H6", "PRE", "CODE", "FIGURE"]);

function lastOf(container) {
  let last = container;
  while (last.lastElementChild && HOLDERS.has(last.lastElementChild.tagName) && !trails(last)) last = last.lastElementChild;
  return last;
}

/** Whether text stands behind the last element, as behind `code` in a sentence. */
const trails = (parent) => Boolean(parent.lastChild !== parent.lastElementChild && parent.lastChild?.textContent.trim());

/** Around a block of code: its language, and a button that copies it. */
function frame(block) {
  const language = block.firstElementChild?.className.match(/language-([\w+#.-]+)/)?.[1] ?? "";
  const bar = element("figcaption", {}, element("span", {}, language), copyButton(() => block.querySelector("code")?.textContent ?? block.textContent, "Copy code"));
  const figure = element("figure", { class: "block" }, bar);
  block.replaceWith(figure);
  block.tabIndex = 0; // it may scroll
  figure.append(block);
}
