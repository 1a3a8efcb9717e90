import { FaError } from "@fa/core";

/** Every block starts and ends at a multiple of this: a cache line, and four vectors. */
export const ALIGNMENT = 64;
const PAGE = 65536;

interface Block {
  readonly address: number;
  readonly bytes: number;
}

/**
 * First-fit allocator over a WebAssembly memory from `base` on, growing the memory when nothing fits. Its books are kept
 * outside the memory, so a kernel that wrote out of bounds could spoil data but never the allocator.
 *
 * Growth detaches every view that was made before: make views anew after each `allocate`.
 */
export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly #base: number;
  /** Address to bytes of the blocks in use. */
  readonly #live = new Map<number, number>();
  /** Gaps by address, never two adjacent, never one that touches `#end`. */
  #gaps: Block[] = [];
  /** Where the space begins that no block has reached yet, or has reached and left. */
  #end: number;
  #currentBytes = 0;
  #peakBytes = 0;

  constructor(memory: WebAssembly.Memory, base: number) {
    this.memory = memory;
    this.#base = roundUp(base);
    this.#end = this.#base;
  }

  get currentBytes(): number {
    return this.#currentBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /**
   * Address of a new block of at least `bytes` bytes, contents undefined.
   * @throws FaError FA_OUT_OF_MEMORY; nothing has changed then
   */
  allocate(bytes: number): number {
    const size = Math.max(roundUp(bytes), ALIGNMENT);
    const address = this.#takeGap(size) ?? this.#extend(size);
    this.#live.set(address, size);
    this.#currentBytes += size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#currentBytes);
    return address;
  }

  /** Gives a block back. @throws RangeError for an address that is not a live block's */
  free(address: number): void {
    const bytes = this.#live.get(address);
    if (bytes === undefined) throw new RangeError(`free(${address}): not a live block`);
    this.#live.delete(address);
    this.#currentBytes -= bytes;
    this.#addGap({ address, bytes });
  }

  #takeGap(size: number): number | undefined {
    const n = this.#gaps.findIndex(({ bytes }) => bytes >= size);
    if (n < 0) return undefined;
    const { address, bytes } = this.#gaps[n];
    this.#gaps.splice(n, 1, ...(bytes > size ? [{ address: address + size, bytes: bytes - size }] : []));
    return address;
  }

  #extend(size: number): number {
    const address = this.#end;
    this.#reserve(address + size);
    this.#end = address + size;
    return address;
  }

  /** Makes the memory reach to `end`: generously, so that growth is rare, or if that fails just as far as needed. */
  #reserve(end: number): void {
    const have = this.memory.buffer.byteLength;
    if (end <= have) return;
    const needed = Math.ceil((end - have) / PAGE);
    for (const pages of [Math.max(needed, Math.ceil(have / PAGE / 4)), needed]) {
      try {
        this.memory.grow(pages);
        return;
      } catch {
        // Beyond the maximum, or the machine has no more.
      }
    }
    throw new FaError(
      "FA_OUT_OF_MEMORY",
      `wasm: tensors and workspace must fit in WebAssembly memory, at most 4 GiB; got ${this.#currentBytes} bytes in use and ${end - this.#end} more asked for. Dispose tensors or use smaller ones.`,
    );
  }

  #addGap(block: Block): void {
    const after = this.#gaps.findIndex(({ address }) => address > block.address);
    const n = after < 0 ? this.#gaps.length : after;
    const left = this.#gaps[n - 1];
    const right = this.#gaps[n];
    const joinsLeft = left !== undefined && left.address + left.bytes === block.address;
    const joinsRight = right !== undefined && block.address + block.bytes === right.address;
    const address = joinsLeft ? left.address : block.address;
    const end = joinsRight ? right.address + right.bytes : block.address + block.bytes;
    const joined = end === this.#end ? [] : [{ address, bytes: end - address }];
    if (end === this.#end) this.#end = address;
    this.#gaps.splice(n - (joinsLeft ? 1 : 0), (joinsLeft ? 1 : 0) + (joinsRight ? 1 : 0), ...joined);
  }
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
