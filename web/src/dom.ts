// One way to make elements: text is only ever a text node, and attributes come from a fixed set, so
// nothing that a person wrote can become markup.

type Child = Node | string | undefined | false;

/** All that `h` sets. An attribute that is not listed cannot be set by mistake. */
export type Props = {
  class?: string;
  id?: string;
  title?: string;
  type?: string;
  name?: string;
  value?: string;
  placeholder?: string;
  autocomplete?: string;
  autocapitalize?: string;
  enterkeyhint?: string;
  inputmode?: string;
  spellcheck?: "true" | "false";
  dir?: "auto" | "ltr" | "rtl";
  lang?: string;
  role?: string;
  for?: string;
  /** Only from `safeHref` of text/parse.ts, or a constant. */
  href?: string;
  rel?: string;
  target?: string;
  datetime?: string;
  method?: string;
  rows?: number;
  maxlength?: number;
  min?: string;
  max?: string;
  tabindex?: number;
  hidden?: boolean;
  disabled?: boolean;
  required?: boolean;
  checked?: boolean;
  readonly?: boolean;
  open?: boolean;
  /** `data-…` and `aria-…`. */
  data?: Readonly<Record<string, string | number | undefined>>;
  aria?: Readonly<Record<string, string | number | boolean | undefined>>;
  /** Listeners by event name. */
  on?: { readonly [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };
};

/** Makes an element. `undefined` and `false` among the children are left out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  const { data, aria, on, ...attributes } = props;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const [name, value] of Object.entries(data ?? {})) {
    if (value !== undefined) element.setAttribute(`data-${name}`, String(value));
  }
  for (const [name, value] of Object.entries(aria ?? {})) {
    if (value !== undefined) element.setAttribute(`aria-${name}`, String(value));
  }
  for (const [name, listener] of Object.entries(on ?? {})) {
    element.addEventListener(name, listener as EventListener);
  }
  fill(element, children);
  return element;
}

/** What is in `element` from here on. */
export function fill(element: Element, children: readonly Child[]): void {
  element.replaceChildren(...children.filter((child): child is Node | string => child !== undefined && child !== false));
}

const SVG = "http://www.w3.org/2000/svg";

/** A 20 × 20 line drawing from one path; hidden from those who hear the page, so its button needs a name. */
export function icon(path: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Every drawing of the page. */
export const ICONS = {
  menu: "M3 6h14M3 10h14M3 14h14",
  plus: "M10 4v12M4 10h12",
  search: "M9 3.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 0 1 0-11M13 13l4 4",
  people: "M7 10a3 3 0 1 0 0-6a3 3 0 0 0 0 6M1.8 16.5c.4-2.7 2.500-4.200 5.200-4.200s4.800 1.500 5.200 4.200M13 4.300a3 3 0 0 1 0 5.400M15 12.800c1.800.600 2.900 1.900 3.200 3.700",
  lock: "M5 9h10v8H5zM7 9V6.500a3 3 0 0 1 6 0V9",
  hash: "M7.500 3.500L6 16.500M14 3.500l-1.500 13M3.500 7.500h13.500M3 12.500h13.500",
  send: "M3.500 10h12M10.500 5l5 5l-5 5",
  close: "M5 5l10 10M15 5L5 15",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
} as const;

/** A button that is only a drawing; `name` is what it is called. */
export function iconButton(path: string, name: string, press: () => void, cls = ""): HTMLButtonElement {
  const button = h("button", { class: `icon-button ${cls}`, type: "button", title: name, aria: { label: name }, on: { click: press } });
  button.append(icon(path));
  return button;
}

/** Makes `parent`'s children those of `items`, in order, and keeps the element of a key that stays: with
    its focus, its selection and its place under the pointer. */
export function keyed<T, E extends HTMLElement>(
  parent: HTMLElement,
  items: readonly T[],
  key: (item: T) => string,
  make: (item: T) => E,
  update: (element: E, item: T) => void,
): void {
  const before = new Map<string, E>();
  for (const child of parent.children) before.set((child as HTMLElement).dataset.key ?? "", child as E);
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = before.get(name);
    before.delete(name);
    if (element === undefined) {
      element = make(item);
      element.dataset.key = name;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of before.values()) element.remove();
}

/** Sets the text only where it is another one, so that nothing is announced or laid out twice. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
