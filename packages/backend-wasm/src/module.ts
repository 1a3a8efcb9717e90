/// <reference types="emscripten" preserve="true" />
import { Arena } from "./allocator.ts";

/**
 * `relaxed` uses relaxed SIMD (a multiply-add in one instruction, where the machine has it), `plain` the SIMD of 2021.
 */
export type Variant = "relaxed" | "plain";

/** Functions of the C side. Pointers are byte addresses; `params` is that of a struct of `c/params.h`. */
export interface Kernels {
  faForwardPack(params: number): void;
  faForwardRows(params: number): void;
  faCalibrate(work: number, blockRows: number, rounds: number): void;
  faDecode(params: number): void;
  faBackwardPack(params: number): void;
  faBackwardClear(params: number): void;
  faBackwardRows(params: number): void;
  faBackwardFinish(params: number): void;
  faLinear(params: number): void;
  faLinearGradX(params: number): void;
  faLinearGradWeight(params: number): void;
  faLinearGradBias(params: number): void;
  faCast(to: number, toDtype: number, from: number, fromDtype: number, elements: number): void;
  faRound(to: number, toDtype: number, fromDouble: number, elements: number): void;
  faRoofArithmetic(rounds: number): number;
  faRoofRead(from: number, bytes: number): number;
}

type Underscored<T> = { readonly [name in keyof T & string as `_${name}`]: T[name] };

/** The parts of an Emscripten module that make sense without a C library. */
type EmscriptenShape = Pick<
  EmscriptenModule,
  "HEAP8" | "HEAP16" | "HEAP32" | "HEAPU8" | "HEAPU16" | "HEAPU32" | "HEAPF32" | "HEAPF64" | "_malloc" | "_free"
>;

/**
 * An instance of the kernels, in the shape of an Emscripten module: `HEAP*` views (each read gives a view on the memory as
 * it is now, since growth detaches older ones), `_malloc` (0 when there is no more) and `_free`, and the C functions with
 * an underscore.
 */
export interface FaWasmModule extends Readonly<EmscriptenShape>, Underscored<Kernels> {
  readonly wasmMemory: WebAssembly.Memory;
  /** The C functions by their own names, as Emscripten gives them. */
  readonly wasmExports: Readonly<Record<string, (...args: number[]) => unknown>>;
  /** The allocator behind `_malloc`, which says why it failed. */
  readonly arena: Arena;
}

/** What `createModule` takes: the arguments of an Emscripten factory that apply here. */
export interface FaModuleArg {
  /** Bytes of the module; left out, the variant that this engine can run is loaded from the package. */
  readonly wasmBinary?: BufferSource | undefined;
  /** May be shared, with a maximum of at most 65536 pages; left out, one is made that is not shared. */
  readonly wasmMemory?: WebAssembly.Memory | undefined;
  /** Makes the instance itself and hands it to `receive`, as Emscripten's hook of the same name. */
  readonly instantiateWasm?:
    | ((imports: WebAssembly.Imports, receive: (instance: WebAssembly.Instance) => void) => unknown)
    | undefined;
}

/** One page below 4 GiB, so that the address after the last byte is still a 32-bit number. */
const MAX_PAGES = 65535;
const INITIAL_PAGES = 16;

/** A `MODULARIZE`-style factory, as Emscripten makes them: each call gives a new instance with its own memory. */
export async function createModule(moduleArg: FaModuleArg = {}): Promise<FaWasmModule> {
  const memory = moduleArg.wasmMemory ?? newMemory(false);
  const instance = await instantiate(moduleArg, { env: { memory } }, isShared(memory));
  const { __heap_base: heapBase, ...functions } = instance.exports;
  const arena = new Arena(memory, (heapBase as WebAssembly.Global<"i32">).value);
  const module = {
    wasmMemory: memory,
    wasmExports: functions,
    arena,
    _malloc: (bytes: number): number => {
      try {
        return arena.allocate(bytes);
      } catch {
        return 0;
      }
    },
    _free: (address: number): void => {
      if (address !== 0) arena.free(address);
    },
    ...Object.fromEntries(Object.entries(functions).map(([name, value]) => [`_${name}`, value])),
  };
  for (const [name, View] of Object.entries(VIEWS)) {
    let view = new View(memory.buffer);
    const get = () => (view.buffer === memory.buffer ? view : (view = new View(memory.buffer)));
    Object.defineProperty(module, name, { get, enumerable: true });
  }
  return module as unknown as FaWasmModule;
}

/** Memory as the kernels take it. @throws RangeError when the machine has not the addresses for it */
export function newMemory(shared: boolean): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum: MAX_PAGES, shared });
}

function isShared({ buffer }: WebAssembly.Memory): boolean {
  return typeof SharedArrayBuffer === "function" && (buffer as ArrayBufferLike) instanceof SharedArrayBuffer;
}

const VIEWS = {
  HEAP8: Int8Array,
  HEAP16: Int16Array,
  HEAP32: Int32Array,
  HEAPU8: Uint8Array,
  HEAPU16: Uint16Array,
  HEAPU32: Uint32Array,
  HEAPF32: Float32Array,
  HEAPF64: Float64Array,
} as const;

function instantiate(
  { wasmBinary, instantiateWasm }: FaModuleArg,
  imports: WebAssembly.Imports,
  shared: boolean,
): Promise<WebAssembly.Instance> {
  if (instantiateWasm) {
    return new Promise((resolve, reject) => {
      Promise.resolve(instantiateWasm(imports, resolve)).catch(reject);
    });
  }
  const compiling = wasmBinary ? WebAssembly.compile(wasmBinary) : compiled(supportedVariant(), shared);
  return compiling.then((module) => WebAssembly.instantiate(module, imports));
}

const modules = new Map<string, Promise<WebAssembly.Module>>();

/** Compiled once for the process; a failure is forgotten, so that the next call tries again. */
export function compiled(variant: Variant, shared: boolean): Promise<WebAssembly.Module> {
  const key = `${variant} ${shared}`;
  let module = modules.get(key);
  if (!module) {
    module = loadBinary(variant, { shared }).then((bytes) => WebAssembly.compile(bytes));
    module.catch(() => modules.delete(key));
    modules.set(key, module);
  }
  return module;
}

/**
 * The bytes of a variant, for memory that is shared between threads or not. They are text inside a JavaScript module, so no
 * bundler needs to be told about a `.wasm` file, and neither `fetch` nor the file system is needed; only the variant that is
 * asked for is loaded.
 */
export async function loadBinary(
  variant: Variant,
  { shared = false }: { readonly shared?: boolean | undefined } = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const { base64, length, memoryFlags } =
    variant === "relaxed" ? await import("./generated/relaxed.ts") : await import("./generated/plain.ts");
  const text = atob(base64);
  const bytes = new Uint8Array(length);
  for (let n = 0; n < length; n++) bytes[n] = text.charCodeAt(n);
  if (!shared) bytes[memoryFlags] = MEMORY_HAS_MAXIMUM;
  return bytes;
}

/** Flags of a memory import that is not shared; otherwise the module is the same for both kinds of memory. */
const MEMORY_HAS_MAXIMUM = 1;

/** The best variant that this engine validates. @throws Error when it has no WebAssembly SIMD at all */
export function supportedVariant(): Variant {
  if (typeof WebAssembly !== "object") throw new Error("this engine has no WebAssembly");
  if (WebAssembly.validate(functionWith(RELAXED_MADD))) return "relaxed";
  if (WebAssembly.validate(functionWith(ADD))) return "plain";
  throw new Error("this engine has WebAssembly but not its SIMD instructions");
}

const SIMD = 0xfd;
const ADD = [SIMD, 0xe4, 0x01]; // f32x4.add
const SPLAT = [0x41, 0x00, SIMD, 0x0f]; // i32.const 0, i8x16.splat
const RELAXED_MADD = [...SPLAT, SIMD, 0x85, 0x02]; // one operand more, f32x4.relaxed_madd

/** The smallest module whose one function puts two vectors on the stack and runs `code`, which leaves one. */
function functionWith(code: readonly number[]): Uint8Array<ArrayBuffer> {
  const body = [0x00, ...SPLAT, ...SPLAT, ...code, 0x1a, 0x0b]; // no locals ... drop, end
  const type = [0x01, 0x04, 0x01, 0x60, 0x00, 0x00]; // () -> ()
  const functions = [0x03, 0x02, 0x01, 0x00];
  const codes = [0x0a, body.length + 2, 0x01, body.length, ...body];
  return Uint8Array.from([0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, ...type, ...functions, ...codes]);
}
