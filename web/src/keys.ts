// The keyboard: what works everywhere, and the list of it all.
import type { App } from "./app";
import { openDialog } from "./dialog";
import { h } from "./dom";

const MAC = /Mac|iPhone|iPad/.test(navigator.platform);
const MOD = MAC ? "⌘" : "Ctrl";

const KEYS: readonly (readonly [string, readonly (readonly [string, string])[]])[] = [
  ["Anywhere", [
    [`${MOD} K`, "Go to a channel, or find one"],
    ["Alt ↑  Alt ↓", "The channel before or after with something new"],
    ["Esc", "Close; then back to the newest message"],
    ["?", "This list (outside of the text)"],
  ]],
  ["Writing", [
    ["Enter", "Send"],
    ["Shift Enter", "A new line"],
    ["↑", "To the messages, from an empty text"],
  ]],
  ["In the messages", [
    ["↑  ↓", "From message to message"],
    ["c", "Copy the text of this one"],
    ["any letter", "Begins to write"],
  ]],
];

export function openHelp(): void {
  if (document.querySelector(".help[open]") !== null) return;
  const { body } = openDialog("Keys", { class: "help" });
  for (const [title, keys] of KEYS) {
    const list = h("dl", { class: "keys" });
    for (const [key, does] of keys) list.append(h("dt", {}, ...key.split("  ").flatMap((one, i) => [i > 0 && " ", h("kbd", {}, one)])), h("dd", {}, does));
    body.append(h("section", {}, h("h3", {}, title), list));
  }
}

export type Reach = { switch(): void; sheet(): boolean; compose(): void; isComposing(): boolean };

/** Listens until the answer is called. */
export function openKeys(app: App, reach: Reach): () => void {
  const listen = (event: KeyboardEvent) => {
    if (event.defaultPrevented || event.isComposing) return;
    const inDialog = document.querySelector("dialog[open]") !== null;
    const mod = MAC ? event.metaKey && !event.ctrlKey : event.ctrlKey && !event.metaKey;
    if (mod && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      if (!inDialog) reach.switch();
      return;
    }
    if (inDialog) return;
    if (event.altKey && !event.ctrlKey && !event.metaKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      event.preventDefault();
      app.step(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Escape") {
      if (reach.sheet()) return;
      reach.compose();
      app.showNewest();
    } else if (!typesText(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey && event.key.length === 1) {
      if (event.key === "?") {
        event.preventDefault();
        openHelp();
      } else if (event.key !== " ") {
        // The letter itself lands in the text.
        reach.compose();
      }
    }
  };
  addEventListener("keydown", listen);
  return () => removeEventListener("keydown", listen);
}

function typesText(target: EventTarget | null): boolean {
  return target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}
