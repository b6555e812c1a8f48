// CUDA C++ on the CPU: what a kernel source needs to be compiled by g++ and run.
//
// Blocks run one after the other. The threads of a block are fibers: one runs until it waits at a
// barrier or a warp-wide operation, then the next. A thread that never waits costs no stack of its
// own. Warp-wide operations go through t2r_emulated::warp_collective: every lane hands in a
// structure of its own, and the last lane to arrive computes the results of all.
//
// With ``is_descending`` blocks and threads run in the opposite order: what depends on the order,
// such as a forgotten barrier, goes wrong in one of the two.
//
// Errors end the launch with a message: threads at different barriers, lanes that never arrive,
// misaligned vector accesses.
#define T2R_EMULATED 1
#define __CUDA_ARCH__ 900

typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;

extern "C" {
int snprintf(char*, size_t, const char*, ...);
void* mmap(void*, size_t, int, int, int, long);
#define T2R_MATH1(name) double name(double) noexcept; float name##f(float) noexcept;
#define T2R_MATH2(name) double name(double, double) noexcept; float name##f(float, float) noexcept;
#define T2R_ALL_MATH1(X) \
    X(exp) X(exp2) X(expm1) X(log) X(log2) X(log10) X(log1p) X(sqrt) X(sin) X(cos) X(tan) \
    X(asin) X(acos) X(atan) X(sinh) X(cosh) X(tanh) X(asinh) X(acosh) X(atanh) X(erf) X(erfc) \
    X(floor) X(ceil) X(trunc) X(rint) X(nearbyint) X(round) X(cbrt) X(fabs) X(lgamma) X(tgamma)
#define T2R_ALL_MATH2(X) X(pow) X(fmod) X(atan2) X(fmax) X(fmin) X(copysign) X(hypot)
T2R_ALL_MATH1(T2R_MATH1)
T2R_ALL_MATH2(T2R_MATH2)
double fma(double, double, double) noexcept;
float fmaf(float, float, float) noexcept;
double ldexp(double, int) noexcept;
float ldexpf(float, int) noexcept;
void abort() noexcept;
}
#define T2R_OVERLOAD1(name) static inline float name(float x) { return name##f(x); }
#define T2R_OVERLOAD2(name) static inline float name(float x, float y) { return name##f(x, y); }
T2R_ALL_MATH1(T2R_OVERLOAD1)
T2R_ALL_MATH2(T2R_OVERLOAD2)
static inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
static inline float ldexp(float x, int y) { return ldexpf(x, y); }
#define memcpy __builtin_memcpy
#define memset __builtin_memset

// ---- Language -------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_assume(x)
#define __builtin_assume_aligned(pointer, ...) (pointer)

// ---- Vector types ---------------------------------------------------------------------------
#define T2R_VECTOR(T, name, align) \
    struct alignas(2 * sizeof(T)) name##2 { T x, y; }; \
    struct name##3 { T x, y, z; }; \
    struct alignas(align) name##4 { T x, y, z, w; }; \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
T2R_VECTOR(signed char, char, 4)
T2R_VECTOR(unsigned char, uchar, 4)
T2R_VECTOR(short, short, 8)
T2R_VECTOR(unsigned short, ushort, 8)
T2R_VECTOR(int, int, 16)
T2R_VECTOR(unsigned, uint, 16)
T2R_VECTOR(float, float, 16)
T2R_VECTOR(double, double, 16)
T2R_VECTOR(long long, longlong, 16)
T2R_VECTOR(unsigned long long, ulonglong, 16)
struct dim3 { unsigned x = 1, y = 1, z = 1; };

static dim3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

// ---- Fibers ---------------------------------------------------------------------------------
namespace t2r_emulated {

#if defined(__x86_64__)
// Saves the callee-saved registers on the stack and swaps stacks.
extern "C" void t2r_emulated_switch(void** save, void* load) noexcept;
asm(R"(
.text
.p2align 4
.hidden t2r_emulated_switch
.globl t2r_emulated_switch
t2r_emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#elif defined(__aarch64__)
extern "C" void t2r_emulated_switch(void** save, void* load) noexcept;
asm(R"(
.text
.p2align 4
.hidden t2r_emulated_switch
.globl t2r_emulated_switch
t2r_emulated_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#else
#error "the CUDA emulator switches stacks on x86-64 and AArch64 only"
#endif

const int MAX_THREADS = 1024;
const size_t STACK_BYTES = 256 * 1024;
const int MAX_BARRIERS = 16;

enum State { READY, AT_BARRIER, AT_WARP, DONE };

struct Thread {
    void* stack_pointer;
    int stack;  // -1: none yet
    State state;
    int barrier, line, expected;        // AT_BARRIER
    unsigned mask;                      // AT_WARP
    void (*run)(void**, unsigned);
    void* argument;
};

static Thread threads[MAX_THREADS];
static int thread_count, current;
static char* stacks;
static int free_stacks[MAX_THREADS], free_stack_count, stack_count;
static void* scheduler;
static char message[512];
static bool has_failed, must_wait, has_waited, is_descending;
static void (*body)(void**);
static void** parameters;
static void* dynamic_shared;

static __attribute__((noinline)) void yield_thread() {
    t2r_emulated_switch(&threads[current].stack_pointer, scheduler);
}

template <class... A> __attribute__((noinline)) void fail(const char* format, A... values) {
    if (!has_failed) {
        int n = snprintf(message, sizeof(message), "block (%u,%u,%u) thread (%u,%u,%u): ",
                         blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
        snprintf(message + n, sizeof(message) - n, format, values...);
    }
    has_failed = true;
    yield_thread();  // never resumed
    abort();
}

// What the compiler's check of alignment hands to its handler.
struct SanitizedAccess {
    const char* file;
    unsigned line, column;
    void* type;
    unsigned char log_alignment, kind;
};

static inline void check_aligned(const void* address, int bytes) {
    if ((uintptr_t)address % bytes)
        fail("address ...%03x is not a multiple of %d bytes",
             (unsigned)((uintptr_t)address & 0xfff), bytes);
}

extern "C" __attribute__((visibility("hidden"), noinline)) void __ubsan_handle_type_mismatch_v1(
    SanitizedAccess* access, void* address) {
    fail("address ...%03x is not a multiple of %d bytes (%s, line %u)",
         (unsigned)((uintptr_t)address & 0xfff), 1 << access->log_alignment, access->file,
         access->line);
}

static inline void waited() { has_waited = true; }

static inline int lane() { return current & 31; }
static inline unsigned lanes_of_warp() {
    const int left = thread_count - (current & ~31);
    return left >= 32 ? 0xffffffffu : (1u << left) - 1;
}

// One warp-wide operation: each lane of the mask calls this with its own argument; the last one
// to arrive calls run(arguments by lane, mask), which reads and writes the arguments of all.
static inline void warp_collective(unsigned mask, void (*run)(void**, unsigned), void* argument) {
    mask &= lanes_of_warp();
    Thread& self = threads[current];
    if (!(mask >> lane() & 1)) fail("lane %d is not in the mask %08x it passed", lane(), mask);
    self.mask = mask;
    self.run = run;
    self.argument = argument;
    self.state = AT_WARP;
    Thread* warp = threads + (current & ~31);
    void* arguments[32];
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        Thread& other = warp[i];
        if (other.state != AT_WARP || other.mask != mask || other.run != run) {
            yield_thread();
            return;
        }
        arguments[i] = other.argument;
    }
    run(arguments, mask);
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) warp[i].state = READY;
}

// Wait at a barrier for `expected` threads of the block (0: all of them).
static inline void barrier(int id, int expected, int line) {
    Thread& self = threads[current];
    self.state = AT_BARRIER;
    self.barrier = id;
    self.expected = expected ? expected : thread_count;
    self.line = line;
    int count = 0;
    for (int i = 0; i < thread_count; i++) {
        Thread& other = threads[i];
        if (other.state != AT_BARRIER || other.barrier != id) continue;
        count++;
        if (id == 0 && other.line != line)
            fail("threads of a block wait at different barriers: lines %d and %d", other.line, line);
    }
    if (count < self.expected) {
        yield_thread();
        return;
    }
    for (int i = 0; i < thread_count; i++)
        if (threads[i].state == AT_BARRIER && threads[i].barrier == id) threads[i].state = READY;
}

static void enter_thread() {
    body(parameters);
    threads[current].state = DONE;
    yield_thread();
    abort();
}

static void set_thread(int index) {
    current = index;
    threadIdx.x = index % blockDim.x;
    threadIdx.y = index / blockDim.x % blockDim.y;
    threadIdx.z = index / blockDim.x / blockDim.y;
}

static void resume(int index) {
    set_thread(index);
    Thread& thread = threads[index];
    if (thread.stack < 0) {
        thread.stack = free_stack_count ? free_stacks[--free_stack_count] : stack_count++;
        void** top = (void**)(stacks + STACK_BYTES * (thread.stack + 1) - 64);
#if defined(__x86_64__)
        *--top = 0;                    // where enter_thread would return to; aligns its stack
        *--top = (void*)enter_thread;
        top -= 6;
#else
        top -= 20;
        top[11] = (void*)enter_thread;  // the link register
#endif
        thread.stack_pointer = top;
    }
    t2r_emulated_switch(&scheduler, thread.stack_pointer);
    if (thread.state == DONE) free_stacks[free_stack_count++] = thread.stack;
}

static void report_deadlock() {
    int ended = 0;
    for (int i = 0; i < thread_count; i++) ended += threads[i].state == DONE;
    for (int i = 0; i < thread_count; i++) {
        if (threads[i].state == DONE) continue;
        set_thread(i);
        has_failed = true;
        const char* what = threads[i].state == AT_WARP ? "a warp-wide operation" : "a barrier";
        snprintf(message, sizeof(message),
                 "block (%u,%u,%u) thread (%u,%u,%u): waits for ever at %s (line %d, mask %08x); "
                 "%d of %d threads have ended", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
                 threadIdx.y, threadIdx.z, what, threads[i].line, threads[i].mask, ended,
                 thread_count);
        return;
    }
}

static void run_block() {
    stack_count = free_stack_count = 0;
    for (int i = 0; i < thread_count; i++) {
        threads[i].stack = -1;
        threads[i].state = READY;
        threads[i].line = 0;
        threads[i].mask = 0;
    }
    has_waited = false;
    int ended = 0;
    while (ended < thread_count) {
        bool moved = false;
        for (int step = 0; step < thread_count; step++) {
            const int i = is_descending ? thread_count - 1 - step : step;
            if (threads[i].state != READY) continue;
            moved = true;
            resume(i);
            if (has_failed) return;
            ended += threads[i].state == DONE;
        }
        if (!moved) return report_deadlock();
    }
    if (must_wait && !has_waited) {
        has_failed = true;
        snprintf(message, sizeof(message), "block (%u,%u,%u): the launch overlaps, but no thread "
                 "called t2r_wait()", blockIdx.x, blockIdx.y, blockIdx.z);
    }
}

static int run_grid(void (*call)(void**), void** values, const unsigned* sizes, void* shared,
                    size_t shared_bytes, int flags) {
    if (!stacks) stacks = (char*)mmap(0, STACK_BYTES * MAX_THREADS, 3, 0x4022, -1, 0);
    gridDim = {sizes[0], sizes[1], sizes[2]};
    blockDim = {sizes[3], sizes[4], sizes[5]};
    thread_count = sizes[3] * sizes[4] * sizes[5];
    body = call;
    parameters = values;
    dynamic_shared = shared;
    must_wait = flags & 1;
    is_descending = flags & 2;
    has_failed = false;
    const unsigned long long blocks = (unsigned long long)sizes[0] * sizes[1] * sizes[2];
    for (unsigned long long step = 0; step < blocks; step++) {
        const unsigned long long block = is_descending ? blocks - 1 - step : step;
        blockIdx.x = block % sizes[0];
        blockIdx.y = block / sizes[0] % sizes[1];
        blockIdx.z = block / sizes[0] / sizes[1];
        memset(shared, 0xff, shared_bytes);
        run_block();
        if (has_failed) return 1;
    }
    return 0;
}

template <size_t... I> struct Indices {};
template <size_t N, size_t... I> struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <size_t... I> struct MakeIndices<0, I...> { typedef Indices<I...> type; };
template <class... A, size_t... I>
inline void call_unpacked(void (*kernel)(A...), void** values, Indices<I...>) {
    kernel(*(A*)values[I]...);
}
template <class... A> inline void call_kernel(void (*kernel)(A...), void** values) {
    call_unpacked(kernel, values, typename MakeIndices<sizeof...(A)>::type());
}
template <class... A> constexpr int count_parameters(void (*)(A...)) { return sizeof...(A); }

// ---- Warp-wide operations -------------------------------------------------------------------
struct Shuffle {
    unsigned long long value, result;
    int source;  // lane it reads, or -1 for its own
};
static void run_shuffle(void** arguments, unsigned mask) {
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        Shuffle* self = (Shuffle*)arguments[i];
        const int source = self->source < 0 ? i : self->source;
        // A lane that takes no part has no value; hardware gives garbage, here all bits are set.
        self->result = mask >> source & 1 ? ((Shuffle*)arguments[source])->value : ~0ull;
    }
}
template <class T> inline T shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    Shuffle argument{0, 0, source};
    memcpy(&argument.value, &value, sizeof(T));
    warp_collective(mask, run_shuffle, &argument);
    memcpy(&value, &argument.result, sizeof(T));
    return value;
}
static void run_nothing(void**, unsigned) {}
struct Ballot { bool value; unsigned result; };
static void run_ballot(void** arguments, unsigned mask) {
    unsigned bits = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) bits |= (unsigned)((Ballot*)arguments[i])->value << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) ((Ballot*)arguments[i])->result = bits;
}
}  // namespace t2r_emulated

#define __syncthreads() t2r_emulated::barrier(0, 0, __LINE__)
#define __syncwarp(...) t2r_emulated::warp_collective(0xffffffffu, t2r_emulated::run_nothing, 0)
template <class T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int base = t2r_emulated::lane() & ~(width - 1);
    return t2r_emulated::shuffle(mask, value, base + (source & (width - 1)));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int step, int width = 32) {
    const int lane = t2r_emulated::lane(), source = lane ^ step;
    return t2r_emulated::shuffle(mask, value, source / width > lane / width ? -1 : source);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, int step, int width = 32) {
    const int lane = t2r_emulated::lane();
    const bool is_inside = lane % width + step < width;
    return t2r_emulated::shuffle(mask, value, is_inside ? lane + step : -1);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, int step, int width = 32) {
    const int lane = t2r_emulated::lane();
    return t2r_emulated::shuffle(mask, value, lane % width >= step ? lane - step : -1);
}
inline unsigned __ballot_sync(unsigned mask, int value) {
    t2r_emulated::Ballot argument{value != 0, 0};
    t2r_emulated::warp_collective(mask, t2r_emulated::run_ballot, &argument);
    return argument.result;
}
inline int __any_sync(unsigned mask, int value) { return __ballot_sync(mask, value) != 0; }
inline int __all_sync(unsigned mask, int value) { return __ballot_sync(mask, !value) == 0; }

// ---- Memory and atomics: threads never run at the same time ----------------------------------
template <class T> inline T __ldg(const T* address) { return *address; }
inline void __threadfence() {}
inline void __threadfence_block() {}
#define T2R_ATOMIC(name, expression) \
    template <class T> inline T name(T* address, decltype(*address + T()) value) { \
        const T old = *address; \
        *address = (T)(expression); \
        return old; \
    }
T2R_ATOMIC(atomicAdd, old + value)
T2R_ATOMIC(atomicSub, old - value)
T2R_ATOMIC(atomicMax, old < value ? value : old)
T2R_ATOMIC(atomicMin, value < old ? value : old)
T2R_ATOMIC(atomicExch, value)
template <class T> inline T atomicOr(T* address, T value) {
    const T old = *address;
    *address = old | value;
    return old;
}
template <class T> inline T atomicAnd(T* address, T value) {
    const T old = *address;
    *address = old & value;
    return old;
}
template <class T> inline T atomicCAS(T* address, T expected, T value) {
    const T old = *address;
    if (old == expected) *address = value;
    return old;
}

// ---- Arithmetic -----------------------------------------------------------------------------
template <class To, class From> inline To t2r_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To result;
    memcpy(&result, &x, sizeof(To));
    return result;
}
inline float __uint_as_float(unsigned x) { return t2r_bits<float>(x); }
inline float __int_as_float(int x) { return t2r_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return t2r_bits<unsigned>(x); }
inline int __float_as_int(float x) { return t2r_bits<int>(x); }
inline long long __double_as_longlong(double x) { return t2r_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return t2r_bits<double>(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
// The result is 0 for large divisors, as on the device.
inline float __fdividef(float x, float y) {
    const float size = fabsf(y);
    return size > 8.507059e37f && size <= 3.402823e38f ? x * 0.0f : x / y;
}
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rz(float x) { return (int)x; }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned long long)x * y >> 32; }
inline int __mulhi(int x, int y) { return (long long)x * y >> 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int i = 0; i < 32; i++) result |= (x >> i & 1) << (31 - i);
    return result;
}
#define T2R_MIN_MAX(T) \
    inline T min(T x, T y) { return y < x ? y : x; } \
    inline T max(T x, T y) { return x < y ? y : x; }
T2R_MIN_MAX(int)
T2R_MIN_MAX(unsigned)
T2R_MIN_MAX(long long)
T2R_MIN_MAX(unsigned long long)
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }
inline int abs(int x) { return x < 0 ? -x : x; }
inline bool isnan(float x) { return x != x; }
inline bool isnan(double x) { return x != x; }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }

// Appended after the kernel's source.
#define T2R_EMULATED_KERNEL(name) \
    static void t2r_emulated_call(void** values) { t2r_emulated::call_kernel(name, values); } \
    extern "C" int t2r_emulated_launch(void** values, const unsigned* sizes, void* shared, \
                                       size_t shared_bytes, int flags) { \
        return t2r_emulated::run_grid(t2r_emulated_call, values, sizes, shared, shared_bytes, \
                                      flags); \
    } \
    extern "C" const char* t2r_emulated_message() { return t2r_emulated::message; } \
    extern "C" int t2r_emulated_parameter_count() { return t2r_emulated::count_parameters(name); }
