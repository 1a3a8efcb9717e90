import { FaError } from "@fa/core";
import { expect, test } from "vitest";
import { ALIGNMENT, Arena } from "../src/allocator.ts";
import { random } from "./variants.ts";

const PAGE = 65536;
const arena = (maximum: number, base = 1000): Arena => new Arena(new WebAssembly.Memory({ initial: 1, maximum }), base);

test("blocks are aligned, begin after the base and never overlap, whatever the order of frees", () => {
  const subject = arena(64);
  const next = random(1);
  const live = new Map<number, number>();
  for (let n = 0; n < 5000; n++) {
    if (next() < 0.1 && live.size < 200) {
      const bytes = Math.floor((next() + 1) * 2000);
      const address = subject.allocate(bytes);
      expect(address % ALIGNMENT).toBe(0);
      expect(address).toBeGreaterThanOrEqual(1000);
      expect(address + bytes).toBeLessThanOrEqual(subject.memory.buffer.byteLength);
      for (const [other, size] of live) expect(address + bytes <= other || other + size <= address).toBe(true);
      live.set(address, bytes);
    } else if (live.size > 0) {
      const address = [...live.keys()][Math.floor(((next() + 1) / 2) * live.size)];
      live.delete(address);
      subject.free(address);
    }
  }
  for (const address of live.keys()) subject.free(address);
  expect(subject.currentBytes).toBe(0);
});

test("freed neighbours join: after any fragmentation the whole space is one block again", () => {
  const subject = arena(1, 0);
  const whole = subject.allocate(PAGE);
  subject.free(whole);
  const blocks = Array.from({ length: 16 }, () => subject.allocate(PAGE / 16));
  for (const n of [1, 3, 5, 7, 9, 11, 13, 15, 0, 14, 2, 12, 4, 10, 6, 8]) subject.free(blocks[n]);
  expect(subject.allocate(PAGE)).toBe(whole);
});

test("a gap in the middle is used again before the memory grows", () => {
  const subject = arena(4, 0);
  const [, middle] = [subject.allocate(64), subject.allocate(640), subject.allocate(64)];
  subject.free(middle);
  expect(subject.allocate(320)).toBe(middle);
  expect(subject.allocate(320)).toBe(middle + 320);
});

test("the memory grows when nothing fits, and what was written stays", () => {
  const subject = arena(100);
  const first = subject.allocate(8);
  new Uint8Array(subject.memory.buffer).set([1, 2, 3], first);
  const before = subject.memory.buffer;
  subject.allocate(10 * PAGE);
  expect(before.byteLength).toBe(0);
  expect([...new Uint8Array(subject.memory.buffer, first, 3)]).toEqual([1, 2, 3]);
});

test("growth falls back from generous to just enough", () => {
  const subject = arena(9, 0);
  subject.allocate(8 * PAGE);
  subject.allocate(PAGE);
  expect(subject.memory.buffer.byteLength).toBe(9 * PAGE);
});

test("out of memory is FA_OUT_OF_MEMORY, changes nothing, and the next call works", () => {
  const subject = arena(4);
  const kept = subject.allocate(100);
  const { currentBytes, peakBytes } = subject;
  for (const bytes of [5 * PAGE, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
    expect(() => subject.allocate(bytes)).toThrow(expect.objectContaining({ code: "FA_OUT_OF_MEMORY" }));
  }
  expect(() => subject.allocate(5 * PAGE)).toThrow(FaError);
  expect(subject).toMatchObject({ currentBytes, peakBytes });
  expect(subject.allocate(2 * PAGE)).toBeGreaterThan(kept);
});

test("freeing twice, or what was never allocated, throws and changes nothing", () => {
  const subject = arena(4);
  const address = subject.allocate(100);
  subject.free(address);
  expect(() => subject.free(address)).toThrow(RangeError);
  expect(() => subject.free(12345)).toThrow(RangeError);
  const [a, b] = [subject.allocate(100), subject.allocate(100)];
  expect(a).not.toBe(b);
});

test("current and peak bytes count whole aligned blocks, empty ones included", () => {
  const subject = arena(4);
  const [a, b, empty] = [subject.allocate(65), subject.allocate(64), subject.allocate(0)];
  expect(subject.currentBytes).toBe(128 + 64 + 64);
  for (const address of [a, b, empty]) subject.free(address);
  expect(subject).toMatchObject({ currentBytes: 0, peakBytes: 256 });
});
