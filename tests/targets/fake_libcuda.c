/* A stand-in for the driver's library: the device's memory is this process's, a stream is done when it is asked.
   It counts what is alive and what was called wrongly, and can be told to fail; after a kernel faulted (700) every call
   fails, as in a real context. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int live, fail_with, faulted, capability = 86, clock_now;
static const char *fail_in = "";
typedef void *handle;

int fake_live(void) { return live; }
void fake_capability(int value) { capability = value; }
void fake_fail(const char *name, int status) { fail_in = strdup(name); fail_with = status; faulted = 0; }

static int failing(const char *name) {
  if (faulted || strcmp(fail_in, name)) return faulted;
  if (fail_with == 700) faulted = fail_with;
  return fail_with;
}

#define ENTER(name) if (failing(name)) return fail_with

int cuInit(unsigned flags) { ENTER("cuInit"); return flags ? 1 : 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int size, int device) { (void)device; strncpy(name, "Fake RTX 3090", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
  return 0;
}
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuGetErrorName(int status, const char **name) {
  *name = status == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : status == 100 ? "CUDA_ERROR_NO_DEVICE" : status == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : 0;
  return *name ? 0 : 1;
}
int cuDevicePrimaryCtxRetain(handle *context, int device) { (void)device; *context = (handle)0xc0; live++; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; live--; return 0; }
int cuCtxSetCurrent(handle context) { return context == (handle)0xc0 ? 0 : 201; }
int cuStreamCreate(handle *stream, unsigned flags) { (void)flags; *stream = malloc(1); live++; return 0; }
int cuStreamDestroy_v2(handle stream) { ENTER("cuStreamDestroy_v2"); free(stream); live--; return 0; }
int cuStreamSynchronize(handle stream) { ENTER("cuStreamSynchronize"); return stream ? 0 : 400; }
int cuEventCreate(handle *event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(int)); live++; return 0; }
int cuEventDestroy_v2(handle event) { ENTER("cuEventDestroy_v2"); free(event); live--; return 0; }
int cuEventRecord(handle event, handle stream) { ENTER("cuEventRecord"); *(int *)event = ++clock_now; return stream ? 0 : 400; }
int cuEventSynchronize(handle event) { ENTER("cuEventSynchronize"); return event ? 0 : 400; }
int cuEventElapsedTime(float *ms, handle start, handle end) { *ms = 0.25f * (*(int *)end - *(int *)start); return 0; }
int cuMemAlloc_v2(uint64_t *address, size_t size) { ENTER("cuMemAlloc_v2"); *address = (uint64_t)malloc(size); live++; return 0; }
int cuMemFree_v2(uint64_t address) { ENTER("cuMemFree_v2"); free((void *)address); live--; return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, handle stream) {
  ENTER("cuMemcpyHtoDAsync_v2");
  memcpy((void *)to, from, size);
  return stream ? 0 : 400;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, handle stream) {
  ENTER("cuMemcpyDtoHAsync_v2");
  memcpy(to, (void *)from, size);
  return stream ? 0 : 400;
}
