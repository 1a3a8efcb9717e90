/** `@fa/core/reference`: the algorithms themselves, on plain arrays, for study, tests and pictures. */
export type { AttentionData, AttentionNumbers, GradientNumbers } from "./data.ts";
export { naiveAttention, naiveAttentionBackward } from "./naive.ts";
export { tiledAttention, tiledAttentionBackward, type TileEvent } from "./tiled.ts";
export { naiveLinear, naiveLinearBackward } from "./linear.ts";
export { reference, referenceWith, type Algorithms, type ReferenceOptions } from "./backend.ts";
