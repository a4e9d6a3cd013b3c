// Where messages are written. Grows to 8 lines, then scrolls; Enter sends, Shift-Enter begins a line.
import { h, icon, ICONS, say } from "./dom";

/** Under the server's 64 KiB for a frame, with room for what is around it. */
const BODY_BYTES_MAX = 60_000;
/** From here on it says how much room is left. */
const BODY_BYTES_SHOWN = 50_000;

/** Newer browsers know `field-sizing`. */
const SIZES_ITSELF = CSS.supports("field-sizing", "content");

export type ComposerEvents = { send(body: string): void; typing(): void; escape(): void; upward(): void };

export class Composer {
  readonly element = h("form", { class: "composer", method: "dialog" });
  readonly #input = h("textarea", { rows: 1, dir: "auto", enterkeyhint: "send", autocomplete: "off" });
  readonly #send = h("button", { type: "submit", class: "send", title: "Send (Enter)", aria: { label: "Send" } });
  readonly #problem = h("p", { class: "composer-problem", role: "status" });

  constructor(readonly events: ComposerEvents) {
    this.#send.append(icon(ICONS.send));
    this.element.append(this.#input, this.#send, this.#problem);
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#input.addEventListener("input", () => {
      this.#changed();
      if (this.#input.value.trim() !== "") events.typing();
    });
    this.#input.addEventListener("keydown", (event) => {
      // Enter that ends a word of an input method is not ours.
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
        event.preventDefault();
        this.#submit();
      } else if (event.key === "Escape") {
        event.preventDefault();
        events.escape();
      } else if (event.key === "ArrowUp" && this.#input.value === "" && !event.altKey) {
        event.preventDefault();
        events.upward();
      }
    });
    // A press beside the text is meant for it.
    this.element.addEventListener("mousedown", (event) => {
      if (event.target === this.element) {
        event.preventDefault();
        this.focus();
      }
    });
    this.#changed();
  }

  get draft(): string {
    return this.#input.value;
  }

  get hasFocus(): boolean {
    return document.activeElement === this.#input;
  }

  show(draft: string): void {
    this.#input.value = draft;
    this.#changed();
  }

  allow(isAllowed: boolean, name: string): void {
    this.#input.disabled = !isAllowed;
    if (this.#input.placeholder !== name) {
      this.#input.placeholder = name;
      this.#input.setAttribute("aria-label", name);
    }
  }

  focus(): void {
    this.#input.focus();
  }

  /** As high as its text. The box keeps its height while that is measured, so that nothing around it scrolls. */
  #fit(): void {
    this.element.style.setProperty("min-height", `${this.element.offsetHeight}px`);
    this.#input.style.setProperty("height", "auto");
    this.#input.style.setProperty("height", `${this.#input.scrollHeight}px`);
    this.element.style.removeProperty("min-height");
  }

  #submit(): void {
    const body = this.#input.value.replace(/\s+$/, "");
    if (body === "" || this.#input.disabled || bytes(body) > BODY_BYTES_MAX) return;
    this.#input.value = "";
    this.#changed();
    this.events.send(body);
    this.focus();
  }

  #changed(): void {
    const { value } = this.#input;
    if (!SIZES_ITSELF) this.#fit();
    this.element.dataset.empty = String(value.trim() === "");
    // A character has 4 bytes at most, so short texts are not measured.
    const size = value.length * 4 > BODY_BYTES_SHOWN ? bytes(value) : 0;
    this.element.dataset.tooLong = String(size > BODY_BYTES_MAX);
    say(
      this.#problem,
      size <= BODY_BYTES_SHOWN ? "" : size > BODY_BYTES_MAX ? `${(size - BODY_BYTES_MAX).toLocaleString("en")} bytes too long for one message` : `room for ${(BODY_BYTES_MAX - size).toLocaleString("en")} bytes more`,
    );
  }
}

function bytes(text: string): number {
  return new TextEncoder().encode(text).length;
}
