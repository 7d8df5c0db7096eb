/* An empty kernel: meson tries hipcc with it, for each architecture. */
__attribute__((global)) void empty() {}
