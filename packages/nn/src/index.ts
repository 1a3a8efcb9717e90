/** `@fa/nn`: multi-head attention around the kernel, on any `@fa` back end. */
export { FlashMHA, type BackwardResult, type TrainingOptions, type TrainingResult } from "./flash-mha.ts";
export type { FlashMHAConfig, ModuleDType, ResolvedConfig } from "./config.ts";
export type { MHAParameters, ParameterName } from "./parameters.ts";
export type { LoadOptions, Naming, StoreOptions } from "./stored.ts";
export type { SavedForward } from "./saved.ts";
