/**
 * `@fa/core/safetensors`: reading and writing the safetensors format: 8 bytes of little-endian header length, a JSON header
 * { name: { dtype, shape, data_offsets } }, then the raw data.
 */
import type { DType } from "./dtype.ts";
import { bytesPerElement } from "./dtype.ts";
import { FaError, refuse, show } from "./errors.ts";

/** One array of a file: its bytes are a copy, aligned for any typed array. */
export interface StoredTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

const TO_DTYPE: Readonly<Record<string, DType>> = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  F8_E4M3: "float8e4m3",
  I32: "int32",
  BOOL: "bool",
};

const FROM_DTYPE = Object.fromEntries(Object.entries(TO_DTYPE).map(([stored, dtype]) => [dtype, stored])) as Record<
  DType,
  string
>;

/** Headers beyond this are a damaged length, not a model. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads every tensor of a safetensors file whose names pass `filter`.
 * @throws FaError FA_TENSOR when the file is cut short or damaged, FA_DTYPE for an element type that is not ours
 */
export function readSafetensors(
  file: Uint8Array,
  filter: (name: string) => boolean = () => true,
): Map<string, StoredTensor> {
  const damaged = (what: string): FaError =>
    new FaError("FA_TENSOR", `readSafetensors(file): the file must be whole; got ${what}. Fetch or write it again.`);
  if (!(file instanceof Uint8Array)) {
    refuse("FA_TENSOR", {
      where: "readSafetensors(file)",
      rule: "file must be a Uint8Array",
      got: show(file),
      fix: "Pass new Uint8Array(arrayBuffer), or what readFile gives.",
    });
  }
  if (file.byteLength < 8) throw damaged(`${file.byteLength} bytes`);
  const headerBytes = Number(new DataView(file.buffer, file.byteOffset, 8).getBigUint64(0, true));
  if (headerBytes > MAX_HEADER_BYTES || 8 + headerBytes > file.byteLength) {
    throw damaged(`a header of ${headerBytes} bytes in a file of ${file.byteLength}`);
  }
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder().decode(file.slice(8, 8 + headerBytes)));
  } catch (error) {
    throw damaged(`a header that is no JSON (${(error as Error).message})`);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header))
    throw damaged("a header that is no object");
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(header as Record<string, HeaderEntry>)) {
    if (name === "__metadata__" || !filter(name)) continue;
    const dtype = Object.hasOwn(TO_DTYPE, entry?.dtype) ? TO_DTYPE[entry.dtype] : undefined;
    if (dtype === undefined) {
      throw new FaError(
        "FA_DTYPE",
        `readSafetensors(${name}): dtype must be one of ${Object.keys(TO_DTYPE).join(", ")}; got ${show(entry?.dtype)}. Convert the file.`,
      );
    }
    const { shape, data_offsets: offsets } = entry;
    if (!isSizes(shape) || !isSizes(offsets) || offsets.length !== 2) throw damaged(`no sizes for ${name}`);
    const [begin, end] = offsets as [number, number];
    const bytes = shape.reduce((product, size) => product * size, bytesPerElement(dtype));
    if (end - begin !== bytes || 8 + headerBytes + end > file.byteLength) {
      throw damaged(`${name} at bytes ${begin} to ${end}, ${bytes} bytes of data`);
    }
    tensors.set(name, {
      dtype,
      shape,
      bytes: new Uint8Array(file.slice(8 + headerBytes + begin, 8 + headerBytes + end)),
    });
  }
  return tensors;
}

interface HeaderEntry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly number[];
}

function isSizes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/**
 * The bytes of a safetensors file that holds the tensors in the order given.
 * @throws FaError FA_SHAPE when the bytes of a tensor are not those of its shape and dtype
 */
export function writeSafetensors(tensors: ReadonlyMap<string, StoredTensor>): Uint8Array<ArrayBuffer> {
  const header = Object.create(null) as Record<string, HeaderEntry>;
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    const expected = shape.reduce((product, size) => product * size, bytesPerElement(dtype));
    if (bytes.byteLength !== expected) {
      refuse("FA_SHAPE", {
        where: `writeSafetensors(${name})`,
        rule: `bytes must hold ${show(shape)} of ${dtype}, ${expected} bytes`,
        got: `${bytes.byteLength}`,
        fix: "Check the shape and dtype.",
      });
    }
    const begin = end;
    end += bytes.byteLength;
    header[name] = { dtype: FROM_DTYPE[dtype], shape, data_offsets: [begin, end] };
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  // The format asks that data begin at a multiple of 8; the header may end in spaces.
  const headerBytes = Math.ceil(json.byteLength / 8) * 8;
  const file = new Uint8Array(8 + headerBytes + end).fill(0x20, 8, 8 + headerBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true);
  file.set(json, 8);
  let at = 8 + headerBytes;
  for (const { bytes } of tensors.values()) {
    file.set(bytes, at);
    at += bytes.byteLength;
  }
  return file;
}
