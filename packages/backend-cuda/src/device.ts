import { FaError } from "@fa/core";
import { MOST_SLOTS, OP, SLOTS, STATUS, type Addon, type Instance, type OpName, type SlotName } from "./abi.ts";

/** Arguments of an op, ready to be written: pointers, at places that differ from call to call, are left 0. */
export interface Launch {
  readonly op: OpName;
  readonly slots: Float64Array;
  /** Where each pointer goes, by the name of its tensor; an offset is added. */
  readonly pointers: readonly { readonly slot: number; readonly tensor: string; readonly offset: number }[];
}

/** A launch from named arguments; a tensor's name (with an offset in bytes) stands for its pointer. */
export function launchOf<O extends OpName>(
  op: O,
  args: Readonly<Partial<Record<SlotName<O>, number | boolean | TensorAt | undefined>>>,
): Launch {
  const names = SLOTS[op] as readonly string[];
  const slots = new Float64Array(names.length);
  const pointers: { slot: number; tensor: string; offset: number }[] = [];
  for (const [name, value] of Object.entries<number | boolean | TensorAt | undefined>(args)) {
    const slot = names.indexOf(name);
    if (typeof value === "object") pointers.push({ slot, ...value });
    else slots[slot] = Number(value ?? 0);
  }
  return { op, slots, pointers };
}

export interface TensorAt {
  readonly tensor: string;
  readonly offset: number;
}

export const at = (tensor: string, offset = 0): TensorAt => ({ tensor, offset });

/** One device and stream through the addon; statuses become typed errors here and nowhere else. */
export class Device {
  readonly #instance: Instance;
  readonly #slots = new Float64Array(MOST_SLOTS);
  #dead: FaError | undefined;
  #closed = false;

  constructor(addon: Addon, device: number) {
    this.#instance = new addon.Instance(device, this.#slots);
  }

  /** The cudaStream_t. */
  get stream(): number {
    return this.#instance.stream;
  }

  throwIfDead(): void {
    if (this.#dead) throw this.#dead;
  }

  /** The device pointer; undefined when memory has run out. */
  allocate(bytes: number): number | undefined {
    const pointer = this.#instance.allocate(bytes);
    if (pointer > 0) return pointer;
    if (-pointer === STATUS.outOfMemory) return undefined;
    throw this.#failure("allocating memory", -pointer);
  }

  free(pointer: number): void {
    // What a broken context held is gone already.
    if (!this.#dead && !this.#closed) this.#check("freeing memory", this.#instance.free(pointer));
  }

  fill(pointer: number, byte: number, bytes: number): void {
    this.#check("filling memory", this.#instance.fill(pointer, byte, bytes));
  }

  upload(pointer: number, bytes: Uint8Array): void {
    this.#check("copying to the device", this.#instance.upload(pointer, bytes));
  }

  /** The bytes, once all work given before is done. With 0 bytes: just that. */
  read(pointer: number, bytes: number): Promise<Uint8Array<ArrayBuffer>> {
    const target = new Uint8Array(bytes);
    return this.#wait("reading from the device", target, (done) => this.#instance.read(pointer, target, done));
  }

  async roof(): Promise<number> {
    let gflops = 0;
    await this.#wait("measuring the roof", undefined, (done) =>
      this.#instance.roof((status, error, value) => {
        gflops = value;
        done(status, error);
      }),
    );
    return gflops;
  }

  run({ op, slots, pointers }: Launch, pointerOf: (tensor: string) => number): void {
    this.#slots.set(slots);
    for (const { slot, tensor, offset } of pointers) {
      const pointer = pointerOf(tensor);
      this.#slots[slot] = pointer === 0 ? 0 : pointer + offset;
    }
    const status = this.#instance.run(OP[op]);
    if (status !== STATUS.ok) throw this.#failure(`running ${op}`, status);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#instance.close();
  }

  #wait<T>(what: string, value: T, start: (done: (status: number, error: string) => void) => number): Promise<T> {
    return new Promise((resolve, reject) => {
      const status = start((ended, error) => {
        if (ended === STATUS.ok) resolve(value);
        else reject(this.#failure(what, ended, error));
      });
      if (status !== STATUS.ok) reject(this.#failure(what, status));
    });
  }

  #check(what: string, status: number): void {
    if (status !== STATUS.ok) throw this.#failure(what, status);
  }

  #failure(what: string, status: number, words: string = this.#instance.error()): FaError {
    if (status === STATUS.outOfMemory) return outOfMemory(what, words);
    if (status !== STATUS.dead)
      return new FaError("FA_BACKEND", `cuda: ${what} must succeed; got ${words}. Please report it.`);
    this.#dead ??= new FaError(
      "FA_BACKEND",
      `cuda: ${what} must succeed; got ${words}, after which CUDA cannot be used in this process. Restart the process; if it comes again, please report it.`,
    );
    return this.#dead;
  }
}

export function outOfMemory(what: string, got: string): FaError {
  return new FaError(
    "FA_OUT_OF_MEMORY",
    `cuda: ${what} must fit into the memory of the device; got ${got}. Dispose tensors, or work in smaller pieces.`,
  );
}
