/* A stand-in for CUDA's runtime library: the device's memory is this process's. FAKE_CUDA_FAIL names a call to fail. */
#include <stdlib.h>
#include <string.h>

static int fails(const char *name) {
  const char *asked = getenv("FAKE_CUDA_FAIL");
  return asked && !strcmp(asked, name);
}

int cudaStreamCreate(void **stream) { *stream = malloc(1); return fails("cudaStreamCreate") ? 35 : 0; }
int cudaStreamSynchronize(void *stream) { return !stream || fails("cudaStreamSynchronize") ? 700 : 0; }
int cudaMalloc(void **at, size_t size) { *at = malloc(size); memset(*at, 0x5a, size); return fails("cudaMalloc") ? 2 : 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
  if (kind != 1 && kind != 2) return 21;
  memcpy(to, from, size);
  return 0;
}
const char *cudaGetErrorString(int status) {
  return status == 2 ? "out of memory" : status == 35 ? "CUDA driver version is insufficient" : "an illegal memory access";
}
