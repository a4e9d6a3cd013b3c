// The day of what is being read, at the top of the list: it looks like the day lines and is pushed
// away by the next of them. Pressed, it offers other places to go to.
import { fill, h } from "../dom.ts";

export class DayLabel {
  readonly element: HTMLElement;
  readonly #button: HTMLButtonElement;
  #name = "";
  #offset = 0;

  constructor(onPress: () => void) {
    this.#button = h("button", { type: "button", class: "day-name", title: "Go to another day", on: { click: onPress } });
    this.element = h("div", { class: "timeline-day", hidden: true }, this.#button);
  }

  get button(): HTMLButtonElement {
    return this.#button;
  }

  /** `undefined`: the line itself is in view. `offset`: how far the next line pushes it up. */
  show(name: string | undefined, offset: number): void {
    this.element.hidden = name === undefined;
    if (name !== undefined && name !== this.#name) {
      this.#name = name;
      fill(this.#button, [name]);
    }
    if (offset !== this.#offset) {
      this.#offset = offset;
      this.element.style.setProperty("translate", `0 ${offset}px`);
    }
  }
}
