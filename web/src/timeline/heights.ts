// The heights of all rows, drawn or not, and the sums that say where a row is: a Fenwick tree, so a
// height changes and a place is found in log n steps, and 50,000 rows are laid out without drawing them.

export class Heights {
  #heights = new Float64Array(1_024);
  /** `#tree[i]`: the sum of the `i & -i` heights that end with the one before `i`. */
  #tree = new Float64Array(1_025);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  get total(): number {
    return this.before(this.#count);
  }

  at(index: number): number {
    return this.#heights[index]!;
  }

  /** The sum of all heights before `index`: where that row begins. */
  before(index: number): number {
    let sum = 0;
    for (let i = Math.min(index, this.#count); i > 0; i -= i & -i) sum += this.#tree[i]!;
    return sum;
  }

  set(index: number, height: number): void {
    const change = height - this.#heights[index]!;
    if (change === 0) return;
    this.#heights[index] = height;
    for (let i = index + 1; i <= this.#count; i += i & -i) this.#tree[i]! += change;
  }

  push(height: number): void {
    this.#grow(this.#count + 1);
    this.#heights[this.#count++] = height;
    const at = this.#count;
    // The nodes below this one are complete: nothing that ends here is missing.
    let sum = height;
    for (let i = at - 1; i > at - (at & -at); i -= i & -i) sum += this.#tree[i]!;
    this.#tree[at] = sum;
  }

  /** Keeps the first `count`. No node looks ahead, so nothing else changes. */
  truncate(count: number): void {
    this.#count = Math.min(count, this.#count);
  }

  /** The row at `y`; the first or the last when it is outside. */
  find(y: number): number {
    let index = 0;
    let left = y;
    for (let step = 2 ** Math.floor(Math.log2(Math.max(1, this.#count))); step > 0; step >>= 1) {
      const next = index + step;
      if (next <= this.#count && this.#tree[next]! <= left) {
        index = next;
        left -= this.#tree[next]!;
      }
    }
    return Math.max(0, Math.min(index, this.#count - 1));
  }

  #grow(count: number): void {
    if (count <= this.#heights.length) return;
    const heights = new Float64Array(this.#heights.length * 2);
    heights.set(this.#heights);
    const tree = new Float64Array(heights.length + 1);
    tree.set(this.#tree);
    this.#heights = heights;
    this.#tree = tree;
  }
}
