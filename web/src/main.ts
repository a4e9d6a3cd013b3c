import { h } from "./dom";

document.body.append(h("p", {}, "hubbub"));
