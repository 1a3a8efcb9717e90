import type { Backend, DeviceBuffer } from "./backend.ts";
import { bytesPerElement, dtypeOf, typedArray, type DType, type TensorData } from "./dtype.ts";
import { refuse, show } from "./errors.ts";

/** Device memory that one or more tensors look at; freed when the last of them lets go. */
export class Storage {
  readonly backend: Backend;
  readonly buffer: DeviceBuffer;
  #tensors = 0;

  constructor(backend: Backend, buffer: DeviceBuffer) {
    this.backend = backend;
    this.buffer = buffer;
  }

  retain(): this {
    this.#tensors++;
    return this;
  }

  release(): void {
    if (--this.#tensors === 0) this.backend.free(this.buffer);
  }
}

/** What tensors share with the `Attention` that made them. */
export interface TensorOwner {
  /** True once the owner is disposed, and its tensors with it. */
  readonly disposed: boolean;
}

/** Frees the memory of tensors that were dropped without `dispose`. Best effort: dispose is what bounds memory. */
const dropped = new FinalizationRegistry<{ storage: Storage; owner: TensorOwner }>(({ storage, owner }) => {
  if (!owner.disposed) storage.release();
});

/**
 * An array in a back end's memory: shape, dtype, and contents that only the back end touches. Made by `fa.tensor`,
 * `fa.empty` and every operation; never modified by any of them.
 */
export class Tensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly #owner: TensorOwner;
  #storage: Storage | undefined;
  #kind: string | undefined;

  /** @internal Tensors come from an `Attention`. */
  constructor(owner: TensorOwner, storage: Storage, shape: readonly number[], dtype: DType) {
    this.#owner = owner;
    this.#storage = storage.retain();
    this.shape = Object.isFrozen(shape) ? shape : Object.freeze([...shape]);
    this.dtype = dtype;
    dropped.register(this, { storage, owner }, this);
  }

  /** Number of elements. */
  get size(): number {
    return elementsOf(this.shape);
  }

  get bytes(): number {
    return this.size * bytesPerElement(this.dtype);
  }

  get disposed(): boolean {
    return this.#storage === undefined || this.#owner.disposed;
  }

  /**
   * A copy of the contents, once the device is done: `Float32Array` for float32, `Float16Array` for float16 (raw bits in a
   * `Uint16Array` where the platform lacks it), `Uint16Array` of raw bits for bfloat16, `Uint8Array` for float8e4m3 and
   * bool, `Int32Array` for int32.
   * @throws FaError FA_DISPOSED, FA_DEVICE_LOST
   */
  async data(): Promise<TensorData> {
    const { backend, buffer } = storageOf("data", "this", this);
    return typedArray(this.dtype, await backend.read(buffer));
  }

  /**
   * The same contents by another shape with as many elements, without a copy. Each of the two is disposed on its own.
   * @throws FaError FA_SHAPE, FA_DISPOSED
   */
  reshape(shape: readonly number[]): Tensor {
    const storage = storageOf("reshape", "this", this);
    checkShape("reshape", shape);
    if (elementsOf(shape) !== this.size) {
      refuse("FA_SHAPE", {
        where: "reshape(shape)",
        rule: `the new shape must have ${this.size} elements, as ${show(this.shape)} has`,
        got: `${show(shape)} with ${elementsOf(shape)}`,
        fix: "Check the product of the sizes.",
      });
    }
    return new Tensor(this.#owner, storage, shape, this.dtype);
  }

  /** Frees the memory once no other tensor looks at it. Calling it again does nothing. */
  dispose(): void {
    const storage = this.#storage;
    if (!storage) return;
    this.#storage = undefined;
    dropped.unregister(this);
    if (!this.#owner.disposed) storage.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  static storage(tensor: Tensor): Storage | undefined {
    return tensor.#storage;
  }

  /** @internal dtype and shape, as text */
  static kind(tensor: Tensor): string {
    return (tensor.#kind ??= `${tensor.dtype}[${tensor.shape.join()}]`);
  }

  /** @internal */
  static owner(tensor: Tensor): TensorOwner {
    return tensor.#owner;
  }
}

/**
 * The storage behind an argument that must be a live tensor.
 * @throws FaError FA_TENSOR if it is none, FA_DISPOSED if it was disposed
 */
export function storageOf(where: string, name: string, value: unknown): Storage {
  if (!(value instanceof Tensor)) {
    refuse("FA_TENSOR", {
      where: `${where}(${name})`,
      rule: `${name} must be a tensor of this instance`,
      got: show(value),
      fix: "Make it with fa.tensor(data, { shape }).",
    });
  }
  const storage = Tensor.storage(value);
  if (!storage || value.disposed) {
    refuse("FA_DISPOSED", {
      where: `${where}(${name})`,
      rule: `${name} must not be disposed`,
      got: `a disposed tensor ${show(value.shape)}`,
      fix: "Dispose tensors after their last use.",
    });
  }
  return storage;
}

/** Number of elements of a shape. */
export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

const MAX_RANK = 8;

/** @throws FaError FA_SHAPE unless shape is a list of sizes whose product is a safe number of bytes */
export function checkShape(where: string, shape: unknown): asserts shape is readonly number[] {
  const isSize = (size: unknown): boolean => Number.isSafeInteger(size) && (size as number) >= 0;
  if (!Array.isArray(shape) || shape.length > MAX_RANK || !Array.from(shape).every(isSize)) {
    refuse("FA_SHAPE", {
      where: `${where}(shape)`,
      rule: `shape must be an array of at most ${MAX_RANK} integers from 0`,
      got: show(shape),
      fix: "Pass { shape: [B, H, S, D] }.",
    });
  }
  const elements = shape.includes(0) ? 0 : elementsOf(shape);
  if (elements > Number.MAX_SAFE_INTEGER / 8) {
    refuse("FA_SHAPE", {
      where: `${where}(shape)`,
      rule: "the product of the sizes must be an exact number of bytes, below 2^53",
      got: show(shape),
      fix: "Check the sizes.",
    });
  }
}

/**
 * Checks data against a shape and gives its bytes, still the caller's: nothing is copied yet.
 * @throws FaError FA_DTYPE, FA_SHAPE, or FA_TENSOR for a detached or resizable buffer
 */
export function checkData(
  where: string,
  data: unknown,
  shape: readonly number[],
  namedDType: unknown,
): { dtype: DType; bytes: Uint8Array } {
  const dtype = dtypeOf(where, data, namedDType);
  const { buffer, byteOffset, byteLength, length } = data as Uint8Array;
  if (isDetached(buffer)) {
    refuse("FA_TENSOR", {
      where: `${where}(data)`,
      rule: "the buffer must be attached",
      got: "a view on a detached ArrayBuffer",
      fix: "It was transferred, or wasm memory grew: make the view anew.",
    });
  }
  if (buffer instanceof ArrayBuffer && buffer.resizable) {
    refuse("FA_TENSOR", {
      where: `${where}(data)`,
      rule: "the buffer must have a fixed length",
      got: "a view on a resizable ArrayBuffer",
      fix: "Copy it with data.slice().",
    });
  }
  const elements = elementsOf(shape);
  if (length !== elements) {
    refuse("FA_SHAPE", {
      where: `${where}(data)`,
      rule: `data must hold as many elements as shape ${show(shape)}, ${elements}`,
      got: `${length}`,
      fix: "Check the shape, or cut the data with data.subarray().",
    });
  }
  return { dtype, bytes: new Uint8Array(buffer, byteOffset, byteLength) };
}

/** Typed arrays cannot be made on a detached buffer; `ArrayBuffer.detached` is younger than Node 20. */
function isDetached(buffer: ArrayBufferLike): boolean {
  try {
    return !new Uint8Array(buffer);
  } catch {
    return true;
  }
}
