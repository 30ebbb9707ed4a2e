/* A stand-in for NVIDIA's management library: the entry points that the program asks, by the signatures of nvml.h.
   What it plays is chosen with -D where symbols differ, else by PLAY in the environment. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15, LIB_RM_VERSION_MISMATCH = 18
};

typedef int nvmlReturn_t;
typedef struct device *nvmlDevice_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;

/* A name, a UUID, and the memory in MiB. */
struct device { const char *name, *uuid; unsigned long long total, free; };

static struct device whole[2] = {
    { "NVIDIA H200", "GPU-00000000-0000-0000-0000-000000000000", 143771, 100000 },
    { "NVIDIA H200", "GPU-11111111-1111-1111-1111-111111111111", 143771, 90000 },
};
static struct device parts[2] = {
    { "NVIDIA H200 MIG 1g.18gb", "MIG-00000000-0000-0000-0000-000000000000", 16384, 16000 },
    { "NVIDIA H200 MIG 2g.35gb", "MIG-22222222-2222-2222-2222-222222222222", 33280, 20000 },
};
static struct device odd = { "\x1b[2J\x07red\xff\n", "GPU-\x1b]0;x\x07", 1, 2 };
static char long_name[97];

static int plays(const char *what) {
    const char *play = getenv("PLAY");
    return play != NULL && strcmp(play, what) == 0;
}

/* Adds a letter to the file that a test watches. */
static void heard(char call) {
    const char *path = getenv("HEARD");
    FILE *file = path == NULL ? NULL : fopen(path, "a");
    if (file != NULL) {
        fputc(call, file);
        fclose(file);
    }
}

/* Free memory that a test changes while the program runs, in MiB. */
static unsigned long long free_now(unsigned long long otherwise) {
    const char *path = getenv("FREE");
    FILE *file = path == NULL ? NULL : fopen(path, "r");
    if (file != NULL) {
        if (fscanf(file, "%llu", &otherwise) != 1) otherwise = 0;
        fclose(file);
    }
    return otherwise;
}

/* Runs while the library is opened, under the loader's lock. */
__attribute__((constructor)) static void opened(void) {
    const char *path = getenv("ASKED_BY");
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file != NULL) {
        fprintf(file, "%d", (int)getpid());
        fclose(file);
    }
    if (plays("hang when opened")) sleep(600);
}

nvmlReturn_t nvmlInit_v2(void) {
    heard('i');
    if (plays("hang")) sleep(600);
    if (plays("not loaded")) return DRIVER_NOT_LOADED;
    if (plays("mismatch")) return LIB_RM_VERSION_MISMATCH;
    if (plays("new error")) return 77777;
    return SUCCESS;
}

nvmlReturn_t nvmlShutdown(void) {
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = plays("garbage") ? 0xffffffffu : plays("none") ? 0 : 2;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (plays("hang later") && access(getenv("GATE"), F_OK) == 0) sleep(600);
    if (index > 1) return INVALID_ARGUMENT;
    if (plays("lost") && index == 0) return GPU_IS_LOST;
    *device = plays("garbage") && index == 1 ? &odd : &whole[index];
    if (plays("garbage") && index == 0) {
        memset(long_name, 'x', sizeof long_name - 1);
        whole[0].name = long_name;
    }
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    if (length < 96) return 7;
    if (plays("unterminated")) {
        memset(name, 'x', length);
        return SUCCESS;
    }
    if (plays("crash")) raise(SIGSEGV);
    if (plays("print")) {
        printf("{\"gpus\":[]}\n");
        fflush(stdout);
    }
    snprintf(name, length, "%s", device->name);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    if (length < 80) return 7;
    snprintf(uuid, length, "%s", device->uuid);
    return SUCCESS;
}

#ifndef OLD
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    if (memory->version != (sizeof(nvmlMemory_v2_t) | (2 << 24))) return 25;
    heard('m');
    if (plays("unified")) return NOT_SUPPORTED;
    if (plays("mig") && device == &whole[0]) return NO_PERMISSION;
    memory->total = plays("zero") ? 0 : device->total << 20;
    memory->free = plays("zero") ? 0 : free_now(device->free) << 20;
    memory->reserved = 600ull << 20;
    memory->used = memory->total - memory->free;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    if (!plays("mig")) return NOT_SUPPORTED;
    *current = *pending = device == &whole[0];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    *count = device == &whole[0] ? 7 : 0;
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *part) {
    if (device != &whole[0] || (index != 0 && index != 3)) return NOT_FOUND;
    *part = &parts[index == 3];
    return SUCCESS;
}
#endif
