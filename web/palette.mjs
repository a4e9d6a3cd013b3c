// A screenshot as a PNG with a palette: a fraction of its size, and hardly to be told from it.
import { deflateSync, inflateSync } from "node:zlib";

const COLOURS_MAX = 256;
const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** `png`: 8 bits a channel, not interlaced, as browsers write them. */
export function small(png) {
  const { width, height, pixels } = decode(png);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const palette = choose(counts);
  const nearest = new Map();
  const rows = Buffer.alloc((width + 1) * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const pixel = pixels[y * width + x];
      let index = nearest.get(pixel);
      if (index === undefined) nearest.set(pixel, (index = nearestOf(palette, pixel)));
      rows[y * (width + 1) + 1 + x] = index;
    }
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 3, 0, 0, 0], 8);
  return Buffer.concat([
    SIGNATURE,
    chunk("IHDR", header),
    chunk("PLTE", Buffer.from(palette.flatMap(parts))),
    chunk("IDAT", deflateSync(rows, { level: 9, memLevel: 9 })),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

/** The most frequent colours, and of the others those that are far from all chosen ones. */
function choose(counts) {
  const byCount = [...counts].sort(([one, a], [other, b]) => b - a || one - other).map(([pixel]) => pixel);
  const palette = [];
  for (const apart of [900, 200, 40, 0]) {
    for (const pixel of byCount) {
      if (palette.length === COLOURS_MAX) return palette;
      // What is most of a picture is in it exactly.
      if (palette.length < 24 || palette.every((other) => distance(other, pixel) > apart)) palette.push(pixel);
    }
  }
  return palette;
}

function nearestOf(palette, pixel) {
  let best = 0;
  for (let i = 1; i < palette.length; i++) if (distance(palette[i], pixel) < distance(palette[best], pixel)) best = i;
  return best;
}

function parts(pixel) {
  return [pixel >> 16, (pixel >> 8) & 255, pixel & 255];
}

function distance(one, other) {
  const [r, g, b] = parts(one);
  const [R, G, B] = parts(other);
  return 2 * (r - R) ** 2 + 4 * (g - G) ** 2 + (b - B) ** 2;
}

function decode(png) {
  const data = [];
  let [width, height, channels] = [0, 0, 0];
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const type = png.toString("latin1", at + 4, at + 8);
    const body = png.subarray(at + 8, at + 8 + length);
    if (type === "IHDR") {
      [width, height] = [body.readUInt32BE(0), body.readUInt32BE(4)];
      channels = { 2: 3, 6: 4 }[body[9]];
      if (body[8] !== 8 || body[12] !== 0 || channels === undefined) throw new Error("this is no PNG of a browser");
    } else if (type === "IDAT") {
      data.push(body);
    }
    at += length + 12;
  }
  const raw = inflateSync(Buffer.concat(data));
  const stride = width * channels;
  const pixels = new Uint32Array(width * height);
  let above = new Uint8Array(stride);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    const line = Uint8Array.from(raw.subarray(y * (stride + 1) + 1, (y + 1) * (stride + 1)));
    for (let i = 0; i < stride; i++) {
      const left = i < channels ? 0 : line[i - channels];
      line[i] += predicted(filter, left, above[i], i < channels ? 0 : above[i - channels]);
    }
    for (let x = 0; x < width; x++) {
      const i = x * channels;
      pixels[y * width + x] = (line[i] << 16) | (line[i + 1] << 8) | line[i + 2];
    }
    above = line;
  }
  return { width, height, pixels };
}

function predicted(filter, left, up, corner) {
  switch (filter) {
    case 0:
      return 0;
    case 1:
      return left;
    case 2:
      return up;
    case 3:
      return (left + up) >> 1;
    default: {
      const [toLeft, toUp, toCorner] = [Math.abs(up - corner), Math.abs(left - corner), Math.abs(left + up - 2 * corner)];
      return toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
    }
  }
}

function chunk(type, body) {
  const whole = Buffer.alloc(body.length + 12);
  whole.writeUInt32BE(body.length, 0);
  whole.write(type, 4, "latin1");
  whole.set(body, 8);
  whole.writeUInt32BE(crc32(whole.subarray(4, body.length + 8)), body.length + 8);
  return whole;
}

/** Of ISO 3309, bit by bit: node:zlib has it from version 22 on. */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}
