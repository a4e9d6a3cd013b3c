// A modal dialog: the browser keeps the focus in it, Esc closes it, and the focus goes back to where it was.
import { h, iconButton, ICONS } from "./dom";
import { placeToasts } from "./toasts";

export type Dialog = { readonly element: HTMLDialogElement; readonly body: HTMLElement; close(): void };

let ids = 0;

export function openDialog(title: string, options: { class?: string; closed?: () => void; untitled?: boolean } = {}): Dialog {
  const id = `dialog-${++ids}`;
  const body = h("div", { class: "dialog-body" });
  const element = h("dialog", { class: `dialog ${options.class ?? ""}`, aria: { labelledby: id } });
  const close = () => element.close();
  const heading = h("h2", { id, class: options.untitled ? "unseen" : "" }, title);
  const head = h("header", { class: "dialog-head" }, heading, iconButton(ICONS.close, "Close", close));
  if (options.untitled) element.append(heading, body);
  else element.append(head, body);
  const before = document.activeElement;
  element.addEventListener("close", () => {
    placeToasts(document.querySelector("dialog[open]") ?? document.body);
    element.remove();
    if (document.activeElement === document.body && before instanceof HTMLElement && before.isConnected) before.focus();
    // The browser gave the text its focus back, but the caret went with what was removed: keys would do nothing.
    const at = document.activeElement;
    if (at instanceof HTMLTextAreaElement) at.setSelectionRange(at.selectionStart, at.selectionEnd);
    options.closed?.();
  });
  // A press on what lies around it.
  element.addEventListener("mousedown", (event) => {
    if (event.target === element) close();
  });
  document.body.append(element);
  element.showModal();
  placeToasts(element);
  return { element, body, close };
}

/** A form whose button waits for its work, and says beside the fields why it was refused. */
export function workForm(
  fields: readonly Node[],
  button: string,
  work: () => Promise<void>,
  explain: (error: unknown) => string,
): HTMLFormElement {
  const problem = h("p", { class: "problem", role: "alert" });
  const submit = h("button", { class: "primary", type: "submit" }, button);
  const form = h("form", { class: "form", method: "dialog" });
  form.append(...fields, problem, submit);
  let busy = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    submit.setAttribute("aria-disabled", "true");
    problem.textContent = "";
    work()
      .catch((error: unknown) => {
        problem.textContent = explain(error);
      })
      .finally(() => {
        busy = false;
        submit.removeAttribute("aria-disabled");
      });
  });
  return form;
}

/** A labelled input. */
export function field(label: string, input: HTMLElement, hint?: string): HTMLElement {
  const id = `field-${++ids}`;
  input.id = id;
  const row = h("div", { class: "field" }, h("label", { for: id }, label), input);
  if (hint !== undefined) {
    row.append(h("p", { class: "hint", id: `${id}-hint` }, hint));
    input.setAttribute("aria-describedby", `${id}-hint`);
  }
  return row;
}

/** One of a few, as radio buttons. */
export function choice<T extends string>(legend: string, name: string, options: readonly (readonly [T, string, string?])[], now: T, changed?: (to: T) => void) {
  const fieldset = h("fieldset", { class: "choice" }, h("legend", {}, legend));
  let value = now;
  for (const [option, label, hint] of options) {
    const input = h("input", { type: "radio", name, value: option, checked: option === now });
    input.addEventListener("change", () => {
      value = option;
      changed?.(option);
    });
    fieldset.append(h("label", {}, input, h("span", {}, label, hint !== undefined && h("small", {}, hint))));
  }
  return { element: fieldset, value: () => value };
}
