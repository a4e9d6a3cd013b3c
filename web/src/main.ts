import { h } from "./dom.ts";

document.body.append(h("p", {}, "hubbub"));
