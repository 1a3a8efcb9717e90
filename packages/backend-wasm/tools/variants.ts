import type { Variant } from "../src/module.ts";

export const VARIANTS: readonly Variant[] = ["plain", "relaxed"];
export const PACKAGE: URL = new URL("..", import.meta.url);
