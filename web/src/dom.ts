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
