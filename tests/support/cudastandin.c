/* A stand-in for libcuda and NVML over host memory: one device whose memory are memfds.
 *
 * It checks what the driver checks (a context where one is needed, access to what is touched, order of calls),
 * so that modelkeep.devices.cuda can be run without a GPU. Built as libcuda.so.1 and as libnvidia-ml.so.1. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int R;
typedef unsigned long long u64;
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_CONTEXT = 201, REGISTERED = 712, NOT_REGISTERED = 713, ILLEGAL = 700 };
static const u64 TOTAL = 256ull << 20, GRAIN = 2ull << 20;

static __thread int contexts = 0; /* pushed in this thread */
static int initialised = 0, retained = 0;
static struct { u64 address, size; int there, writable; } mapped[256];
static struct { u64 address, size; } pinned[256];

#define NEEDS_CONTEXT if (!contexts) return NO_CONTEXT
#define ALIAS(name, v) extern __typeof__(name) name##v __attribute__((alias(#name)))

R cuInit(unsigned flags) { initialised = 1; return flags ? INVALID : OK; }
R cuDriverGetVersion(int *version) { *version = 13000; return OK; }
R cuDeviceGetCount(int *count) { *count = 1; return initialised ? OK : 3; }
R cuDeviceGet(int *device, int number) { *device = number; return number ? 101 : OK; }
R cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "stand-in"); return OK; }
R cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 7, 16); return OK; }
ALIAS(cuDeviceGetUuid, _v2);
R cuDeviceTotalMem(size_t *bytes, int device) { *bytes = TOTAL; return OK; }
ALIAS(cuDeviceTotalMem, _v2);
R cuDeviceGetAttribute(int *value, int attribute, int device) {
  const char *mode = getenv("STANDIN_COMPUTE_MODE");
  *value = attribute == 20 ? (mode ? atoi(mode) : 0) : 1; /* 20: compute mode */
  return OK;
}
R cuDevicePrimaryCtxRetain(void **context, int device) { retained++; *context = (void *)0x77; return OK; }
R cuCtxPushCurrent(void *context) { contexts++; return context == (void *)0x77 ? OK : NO_CONTEXT; }
ALIAS(cuCtxPushCurrent, _v2);
R cuCtxPopCurrent(void **context) { NEEDS_CONTEXT; contexts--; *context = (void *)0x77; return OK; }
ALIAS(cuCtxPopCurrent, _v2);
R cuCtxSynchronize(void) { NEEDS_CONTEXT; return OK; }
ALIAS(cuCtxSynchronize, _v2);

struct location { int type, id; char rest[16]; };
R cuMemGetAllocationGranularity(size_t *bytes, const int *property, int option) { *bytes = GRAIN; return OK; }
R cuMemCreate(u64 *handle, size_t size, const int *property, u64 flags) {
  /* type, requestedHandleTypes, location.type, location.id */
  if (property[0] != 1 || property[1] != 1 || property[2] != 1 || property[3] != 0 || size % GRAIN) return INVALID;
  if (size > TOTAL) return NO_MEMORY;
  int fd = memfd_create("standin", 0);
  if (ftruncate(fd, size)) return INVALID;
  *handle = fd + 1;
  return OK;
}
R cuMemRelease(u64 handle) { return close(handle - 1) ? INVALID : OK; }
R cuMemExportToShareableHandle(int *fd, u64 handle, int type, u64 flags) {
  *fd = dup(handle - 1);
  return type == 1 ? OK : INVALID;
}
R cuMemImportFromShareableHandle(u64 *handle, void *fd, int type) {
  int copy = dup((int)(long)fd);
  *handle = copy + 1;
  return copy < 0 || type != 1 ? INVALID : OK;
}
R cuMemAddressReserve(u64 *address, size_t size, size_t alignment, u64 hint, u64 flags) {
  void *found = mmap(0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *address = (u64)found;
  return size % GRAIN || found == MAP_FAILED ? INVALID : OK;
}
R cuMemAddressFree(u64 address, size_t size) { return munmap((void *)address, size) ? INVALID : OK; }
static int find(u64 address) {
  for (int i = 0; i < 256; i++) if (mapped[i].there && mapped[i].address <= address && address < mapped[i].address + mapped[i].size) return i;
  return -1;
}
R cuMemMap(u64 address, size_t size, size_t offset, u64 handle, u64 flags) {
  struct stat status;
  if (find(address) >= 0 || fstat(handle - 1, &status) || (size_t)status.st_size != size) return INVALID;
  if (mmap((void *)address, size, PROT_NONE, MAP_SHARED | MAP_FIXED, handle - 1, 0) == MAP_FAILED) return INVALID;
  for (int i = 0; i < 256; i++) if (!mapped[i].there) {
    mapped[i].address = address, mapped[i].size = size, mapped[i].there = 1, mapped[i].writable = 0;
    return OK;
  }
  return NO_MEMORY;
}
R cuMemSetAccess(u64 address, size_t size, const int *access, size_t count) {
  int i = find(address); /* access: location.type, location.id, flags */
  if (i < 0 || count != 1 || access[0] != 1 || access[1] != 0) return INVALID;
  int flags = access[2];
  mapped[i].writable = flags == 3;
  return mprotect((void *)address, size, flags == 3 ? PROT_READ | PROT_WRITE : PROT_READ) ? INVALID : OK;
}
R cuMemUnmap(u64 address, size_t size) {
  int i = find(address);
  if (i < 0 || mapped[i].address != address || mapped[i].size != size) return INVALID;
  mapped[i].there = 0;
  return mmap((void *)address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? INVALID : OK;
}
R cuMemHostRegister(void *p, size_t size, unsigned flags) {
  NEEDS_CONTEXT;
  if (flags != 9 || size % 4096) return INVALID; /* PORTABLE | READ_ONLY */
  for (int i = 0; i < 256; i++) if (pinned[i].address == (u64)p) return REGISTERED;
  for (int i = 0; i < 256; i++) if (!pinned[i].address) { pinned[i].address = (u64)p; pinned[i].size = size; return OK; }
  return NO_MEMORY;
}
ALIAS(cuMemHostRegister, _v2);
R cuMemHostUnregister(void *p) {
  NEEDS_CONTEXT;
  for (int i = 0; i < 256; i++) if (pinned[i].address == (u64)p) { pinned[i].address = 0; return OK; }
  return NOT_REGISTERED;
}
R cuMemHostAlloc(void **p, size_t size, unsigned flags) { NEEDS_CONTEXT; *p = aligned_alloc(4096, size); return OK; }
R cuStreamCreate(void **stream, unsigned flags) { NEEDS_CONTEXT; *stream = (void *)0x55; return OK; }
R cuStreamSynchronize(void *stream) { return stream == (void *)0x55 ? OK : INVALID; }
R cuEventCreate(void **event, unsigned flags) { NEEDS_CONTEXT; *event = malloc(1); return OK; }
R cuEventRecord(void *event, void *stream) { NEEDS_CONTEXT; return stream == (void *)0x55 ? OK : INVALID; }
R cuEventSynchronize(void *event) { return event ? OK : INVALID; }
R cuMemcpyHtoDAsync(u64 target, const void *source, size_t size, void *stream) {
  NEEDS_CONTEXT;
  int i = find(target);
  if (i < 0 || !mapped[i].writable || target + size > mapped[i].address + mapped[i].size) return ILLEGAL;
  memcpy((void *)target, source, size);
  return OK;
}
ALIAS(cuMemcpyHtoDAsync, _v2);
R cuMemcpyDtoHAsync(void *target, u64 source, size_t size, void *stream) {
  NEEDS_CONTEXT;
  if (find(source) < 0) return ILLEGAL;
  memcpy(target, (void *)source, size);
  return OK;
}
ALIAS(cuMemcpyDtoHAsync, _v2);
R cuGetErrorString(R code, const char **words) { *words = code == NO_MEMORY ? "out of memory" : "some error"; return OK; }
R cuGetProcAddress(const char *symbol, void **found, int version, u64 flags, int *status) {
  *found = dlsym(RTLD_DEFAULT, symbol);
  if (status) *status = *found ? 0 : 1;
  return *found ? OK : 500;
}
ALIAS(cuGetProcAddress, _v2);

/* NVML. */
static int device_token;
R nvmlInitWithFlags(unsigned flags) { return OK; }
R nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  const char *prefix = getenv("STANDIN_MIG") ? "MIG-07070707" : "GPU-07070707";
  *device = &device_token;
  return strncmp(uuid, prefix, 12) ? 6 : OK; /* 6: not found */
}
R nvmlDeviceGetMemoryInfo(void *device, u64 *info) {
  if (getenv("STANDIN_LOST")) return 15; /* GPU is lost */
  info[0] = TOTAL; info[1] = TOTAL / 4; info[2] = TOTAL - TOTAL / 4;
  return OK;
}
const char *nvmlErrorString(R code) { return code == 15 ? "GPU is lost" : code == 6 ? "Not Found" : "Unknown Error"; }
