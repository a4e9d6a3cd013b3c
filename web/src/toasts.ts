// What happened and has no place of its own. An error stays until somebody puts it away: no timer decides
// that it was read. The same words are not shown twice.
import { h, iconButton, ICONS } from "./dom";

const SHOWN_MAX = 4;
const NOTE_MS = 5_000;

const list = h("div", { class: "toasts" });
// The regions must be there before something is said in them, or it is not read out.
const errors = h("div", { role: "alert" });
const notes = h("div", { role: "status" });
list.append(errors, notes);

/** Where they are: in the dialog that is open, since all else is inert then, or on the page. */
export function placeToasts(parent: Element): void {
  parent.append(list);
}

export function error(text: string): void {
  add(errors, text, "toast error");
}

/** Good news: goes by itself, since it is seen elsewhere too. */
export function note(text: string): void {
  const toast = add(notes, text, "toast");
  setTimeout(() => toast.remove(), NOTE_MS);
}

function add(region: HTMLElement, text: string, cls: string): HTMLElement {
  for (const shown of region.children) if (shown.firstChild?.textContent === text) shown.remove();
  while (region.childElementCount >= SHOWN_MAX) region.firstElementChild?.remove();
  const toast = h("div", { class: cls }, h("span", { dir: "auto" }, text));
  toast.append(iconButton(ICONS.close, "Put this away", () => toast.remove()));
  region.append(toast);
  return toast;
}
