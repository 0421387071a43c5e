// Which model answers, and what each is doing.

import { byId, element } from "./dom.js";
import { call } from "./server.js";

const BUSY = 1_500; // ms between two looks while a model is not ready or an answer waits
const QUIET = 10_000;

export class Models {
  #list = [];
  #chosen = "";
  #select = byId("model");
  /** Whether an answer waits for its model. */
  waiting = false;

  constructor(onChoice) {
    this.#select.addEventListener("change", () => {
      this.#chosen = this.#select.value;
      onChoice(this.#chosen);
      this.#show();
    });
  }

  choose(name) {
    this.#chosen = name ?? "";
    this.#show();
  }

  /** The one that answers; undefined while the server has not told its models: it takes its default then. */
  get name() {
    return this.#model()?.name;
  }

  #model() {
    return this.#list.find((one) => one.name === this.#chosen) ?? this.#list.find((one) => one.default);
  }

  async run() {
    for (;;) {
      try {
        if (!document.hidden) this.#list = (await call("model_list")).models;
        this.#show();
      } catch {
        this.#state("away", "the server does not answer");
      }
      const pause = this.waiting || this.#list.some((model) => !model.ready) ? BUSY : QUIET;
      await new Promise((resolve) => setTimeout(resolve, this.#list.length ? pause : BUSY));
    }
  }

  #show() {
    const model = this.#model();
    if (!model) return;
    const lines = this.#list.map((one) => `${one.name}${one.ready ? "" : ` (${brief(one)})`}`);
    if (this.#select.dataset.lines !== lines.join("\n")) {
      this.#select.dataset.lines = lines.join("\n");
      this.#select.replaceChildren(...this.#list.map((one, index) => element("option", { value: one.name }, lines[index])));
    }
    this.#select.value = model.name;
    const { sampling } = model;
    if (sampling) {
      for (const name of ["temperature", "topP", "topK"]) document.querySelector(`#options-dialog [name=${name}]`).placeholder = sampling[name] || (name === "temperature" ? 0 : "off");
    }
    const queue = model.waiting ? `, ${model.waiting} waiting` : "";
    if (model.ready) this.#state("ready", `ready${queue}`);
    else this.#state(zero(model) ? "zero" : "loading", `${model.detail ?? "not ready"}${queue}`, percentOf(model));
  }

  #state(kind, words, percent = null) {
    const root = byId("model-state");
    root.dataset.kind = kind;
    const shown = root.querySelector(".words");
    if (shown.textContent !== words) shown.textContent = shown.title = words;
    const bar = root.querySelector("progress");
    bar.hidden = percent === null;
    if (percent !== null) bar.value = percent;
  }
}

const zero = ({ detail }) => /^(scaled to zero|no worker is ready)/.test(detail ?? "");

function percentOf({ detail }) {
  const found = /(\d+) ?%/.exec(detail ?? "");
  return found && Number(found[1]);
}

function brief(model) {
  if (zero(model)) return model.detail.startsWith("scaled") ? "scaled to zero" : "no worker";
  const percent = percentOf(model);
  return percent === null ? "starting" : `loading, ${percent} %`;
}
