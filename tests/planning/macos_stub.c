/* The functions of libSystem that mlxtune/planning/macos.py calls, with values that a test sets.

   Signatures and the revisions of vm_statistics64 (38, 40 and 62 words of 32 bits) follow Apple's headers and xnu's kern/host.c. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX 16

static struct { char name[64]; char value[256]; size_t size; } variables[MAX];
static struct { char name[64]; uint64_t value; } states[MAX];
static uint32_t vm_words[62];
static uint64_t footprint;
static unsigned vm_revision_words, host_ports, tokens;

void stub_reset(void) {
    memset(variables, 0, sizeof variables); memset(states, 0, sizeof states); memset(vm_words, 0, sizeof vm_words);
    vm_revision_words = host_ports = tokens = 0;
}
void stub_variable(const char *name, const void *value, size_t size) {
    for (int i = 0; i < MAX; i++) if (!variables[i].name[0] || !strcmp(variables[i].name, name)) {
        strcpy(variables[i].name, name); memcpy(variables[i].value, value, size); variables[i].size = size; return;
    }
}
void stub_state(const char *name, uint64_t value) {
    for (int i = 0; i < MAX; i++) if (!states[i].name[0]) { strcpy(states[i].name, name); states[i].value = value; return; }
}
void stub_footprint(uint64_t bytes) { footprint = bytes; }
void stub_vm(const uint32_t *words, unsigned count) { memcpy(vm_words, words, 4 * count); vm_revision_words = count; }
unsigned stub_tokens(void) { return tokens; }
unsigned stub_host_ports(void) { return host_ports; }

int sysctlbyname(const char *name, void *old, size_t *size, void *new_value, size_t new_size) {
    for (int i = 0; i < MAX; i++) if (!strcmp(variables[i].name, name)) {
        if (old) { if (*size < variables[i].size) return -1; memcpy(old, variables[i].value, variables[i].size); }
        *size = variables[i].size;
        return 0;
    }
    return -1;
}
uint32_t mach_host_self(void) { host_ports++; return 0xf1234567; } /* above INT_MAX, as a port name may be */
int host_statistics64(uint32_t host, int flavor, int32_t *out, uint32_t *count) {
    if (host != 0xf1234567 || flavor != 4 || *count < 24) return 5;
    uint32_t words = *count >= 62 ? 62 : *count >= 40 ? 40 : *count >= 38 ? 38 : 24;
    if (words > vm_revision_words) words = vm_revision_words;
    memcpy(out, vm_words, 4 * words);
    *count = words;
    return 0;
}
int proc_pid_rusage(int pid, int flavor, void *buffer) { /* struct rusage_info_v0: 96 bytes, ri_phys_footprint at 72 */
    if (pid != getpid() || flavor != 0) return -1;
    memset(buffer, 0, 96);
    *(uint64_t *)((char *)buffer + 72) = footprint;
    return 0;
}
uint32_t notify_register_check(const char *name, int *token) {
    for (int i = 0; i < MAX; i++) if (!strcmp(states[i].name, name)) { *token = 100 + i; tokens++; return 0; }
    return 1;
}
uint32_t notify_get_state(int token, uint64_t *state) { *state = states[token - 100].value; return 0; }
uint32_t notify_cancel(int token) { tokens--; return 0; }
