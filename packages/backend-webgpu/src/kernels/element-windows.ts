import { bytesPerElement, type FloatDType } from "@fa/core";
import type { BufferWindow, DeviceLimits } from "./row.ts";

/**
 * No window is larger than what every device can bind, so that how a problem is cut, and with it the workspace, does not
 * depend on the device.
 */
const LARGEST_WINDOW_BYTES = 2 ** 27;

type WindowLimits = Pick<DeviceLimits, "maxStorageBufferBindingSize" | "minStorageBufferOffsetAlignment">;

/** What every device grants at least. */
export const LEAST_LIMITS: WindowLimits = {
  maxStorageBufferBindingSize: LARGEST_WINDOW_BYTES,
  minStorageBufferOffsetAlignment: 256,
};

/** Elements of a dtype that a window holds wherever it begins. */
export function windowElements(dtype: FloatDType, limits: WindowLimits): number {
  const bytes = Math.min(limits.maxStorageBufferBindingSize, LARGEST_WINDOW_BYTES);
  return Math.floor((bytes - limits.minStorageBufferOffsetAlignment) / bytesPerElement(dtype));
}

/** A window that shows elements `[first, end)` of a tensor, and where in it `first` is. */
export function windowOf(
  name: string,
  dtype: FloatDType,
  [first, end]: readonly [number, number],
  { minStorageBufferOffsetAlignment: alignment }: WindowLimits,
): { readonly window: BufferWindow; readonly base: number } {
  const size = bytesPerElement(dtype);
  const offset = Math.floor((first * size) / alignment) * alignment;
  const bytes = Math.max(4, Math.ceil((end * size - offset) / 4) * 4);
  return { window: { name, offset, bytes }, base: first - offset / size };
}
