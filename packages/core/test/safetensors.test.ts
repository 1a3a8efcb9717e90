import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { bytesPerElement, DTYPES } from "../src/dtype.ts";
import { readSafetensors, writeSafetensors, type StoredTensor } from "../src/safetensors.ts";

const stored = fc.tuple(fc.constantFrom(...DTYPES), fc.array(fc.nat(4), { maxLength: 4 })).chain(([dtype, shape]) => {
  const length = shape.reduce((product, size) => product * size, bytesPerElement(dtype));
  return fc
    .uint8Array({ minLength: length, maxLength: length })
    .map((bytes): StoredTensor => ({ dtype, shape, bytes: Uint8Array.from(bytes) }));
});
const name = fc.oneof(fc.string({ unit: "grapheme" }), fc.constantFrom("__proto__", "constructor", "Wqkv.weight"));
const files = fc
  .uniqueArray(fc.tuple(name, stored), { selector: ([key]) => key, maxLength: 5 })
  .filter((entries) => entries.every(([key]) => key !== "__metadata__"))
  .map((entries) => new Map(entries));

describe("safetensors", () => {
  test("what is written is read back, whatever the names, dtypes and shapes", () => {
    fc.assert(
      fc.property(files, (tensors) => {
        expect(readSafetensors(writeSafetensors(tensors))).toEqual(tensors);
      }),
    );
  });

  test("a file is read the same at any place in a buffer, and what is read is a copy", () => {
    const file = writeSafetensors(new Map([["w", { dtype: "float32", shape: [2], bytes: new Uint8Array(8).fill(3) }]]));
    const buffer = new Uint8Array(file.length + 5);
    buffer.set(file, 5);
    const read = readSafetensors(buffer.subarray(5));
    buffer.fill(0);
    expect(read.get("w")).toEqual({ dtype: "float32", shape: [2], bytes: new Uint8Array(8).fill(3) });
    expect(read.get("w")?.bytes.byteOffset).toBe(0);
  });

  test("the bytes are those of the format", () => {
    const file = writeSafetensors(new Map([["a", { dtype: "bool", shape: [3], bytes: Uint8Array.of(1, 0, 1) }]]));
    const header = `{"a":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}}`.padEnd(56);
    expect(file).toEqual(Uint8Array.of(56, 0, 0, 0, 0, 0, 0, 0, ...new TextEncoder().encode(header), 1, 0, 1));
  });

  test("data begins at a multiple of 8", () => {
    for (let letters = 1; letters < 20; letters++) {
      const file = writeSafetensors(
        new Map([["n".repeat(letters), { dtype: "bool", shape: [], bytes: Uint8Array.of(1) }]]),
      );
      expect((file.length - 1) % 8).toBe(0);
    }
  });

  test("names that the filter leaves out are not read, not even their dtype; metadata is no tensor", () => {
    const header = JSON.stringify({
      __metadata__: { format: "pt" },
      skip: { dtype: "F64", shape: [1], data_offsets: [0, 8] },
      take: { dtype: "I32", shape: [1], data_offsets: [8, 12] },
    });
    const file = new Uint8Array(8 + header.length + 12);
    new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
    file.set(new TextEncoder().encode(header), 8);
    file[8 + header.length + 8] = 7;
    expect(readSafetensors(file, (key) => key !== "skip")).toEqual(
      new Map([["take", { dtype: "int32", shape: [1], bytes: Uint8Array.of(7, 0, 0, 0) }]]),
    );
  });
});
