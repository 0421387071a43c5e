// The list of conversations.

import { all, openAnswer, titleOf } from "./conversations.js";
import { byId, element } from "./dom.js";

export class Sidebar {
  #open;

  constructor({ open }) {
    this.#open = open;
    byId("menu").addEventListener("click", () => this.#toggle(true));
    byId("shade").addEventListener("click", () => this.close());
    addEventListener("keydown", (event) => event.key === "Escape" && document.body.classList.contains("menu-open") && (event.preventDefault(), this.close()), true);
  }

  show(current) {
    const items = all().map((conversation) => {
      const running = openAnswer(conversation);
      return element(
        "li",
        {},
        element(
          "button",
          { type: "button", class: "conversation", dir: "auto", "aria-current": conversation.id === current ? "true" : null, onclick: () => this.#choose(conversation.id) },
          titleOf(conversation),
          running ? element("span", { class: "sr" }, " (answering)") : null,
          running ? element("span", { class: "pulse", "aria-hidden": "true" }) : null,
        ),
      );
    });
    const focused = [...byId("conversations").children].findIndex((item) => item.contains(document.activeElement));
    byId("conversations").replaceChildren(...items);
    if (focused >= 0) items[Math.min(focused, items.length - 1)]?.firstElementChild.focus();
  }

  close() {
    this.#toggle(false);
  }

  #choose(id) {
    this.close();
    this.#open(id);
  }

  /** On narrow screens the list lies over the conversation. */
  #toggle(open) {
    const was = document.body.classList.contains("menu-open");
    document.body.classList.toggle("menu-open", open);
    byId("shade").hidden = !open;
    byId("menu").setAttribute("aria-expanded", String(open));
    document.querySelector("main").inert = open;
    if (open) byId("new").focus();
    else if (was) byId("menu").focus();
  }
}
