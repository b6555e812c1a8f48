// What the emulator knows of sm_90a: tensor maps, barriers that count bytes, products by warpgroup.
//
// A copy into shared memory is done when somebody waits for its barrier, and not before: who forgets
// to wait reads poison. Products are done at once, by every thread its own part. Who waits yields
// until others have completed the barrier's phase. Addresses of shared memory count from the start
// of dynamic shared memory.

// What `hopper.encode_tiled` writes in place of the driver.
struct alignas(64) TensorMap {
    unsigned long long address, strides[4];  // bytes
    unsigned shape[5], box[5], rank, itemsize, swizzled_bytes;
    unsigned char rest[128 - 40 - 52];
};

namespace t2r_emulated {

const int SPINS = 1 << 20;

// At an address of shared memory.
inline char* shared_at(unsigned address) { return (char*)dynamic_shared + address; }
// Of rows of 128 or 64 bytes, 16-byte units are exchanged by the number of 128 bytes.
inline unsigned swizzled(unsigned address, unsigned row_bytes = 128) {
    return address ^ (address >> 7 & (row_bytes / 16 - 1)) << 4;
}

struct Barrier {
    unsigned char expected, pending, phase, is_made;
    int bytes;
    void settle() {
        if (pending || bytes) return;
        pending = expected;
        phase ^= 1;
    }
};
inline Barrier& barrier_at(unsigned address) {
    if (address % 8) fail("a barrier at %u, not a multiple of 8", address);
    Barrier& found = *(Barrier*)shared_at(address);
    if (found.is_made != 0x5a) fail("no barrier was made at %u", address);
    return found;
}
inline void arrive(Barrier& barrier) {
    if (!barrier.pending) fail("more arrivals at a barrier than it was made for");
    barrier.pending--;
    barrier.settle();
}

// A barrier with a number, at which some wait and some only arrive.
struct Named {
    int arrived;
    unsigned phase;
    void arrive(int threads) {
        if (++arrived < threads) return;
        arrived = 0;
        phase++;
    }
};
static Named named[MAX_BARRIERS];

// Rows of a box between shared memory and a mapped tensor; ``first`` innermost axis first.
inline void move_box(const TensorMap& map, unsigned to, const int* first, bool is_store) {
    const unsigned row_bytes = map.box[0] * map.itemsize;
    int rows = 1;
    for (unsigned axis = 1; axis < map.rank; axis++) rows *= map.box[axis];
    for (int row = 0; row < rows; row++) {
        long long offset = 0;
        bool is_inside = true;
        int rest = row;
        for (unsigned axis = 1; axis < map.rank; axis++) {
            const int at = first[axis] + rest % (int)map.box[axis];
            rest /= map.box[axis];
            is_inside = is_inside && at >= 0 && at < (int)map.shape[axis];
            offset += at * (long long)map.strides[axis - 1];
        }
        for (unsigned byte = 0; byte < row_bytes; byte += 16) {
            const unsigned at = to + row * row_bytes + byte;
            char* const local =
                shared_at(map.swizzled_bytes ? swizzled(at, map.swizzled_bytes) : at);
            char* const global = (char*)map.address + offset + first[0] * map.itemsize + byte;
            const bool is_there = is_inside && first[0] + byte / map.itemsize < map.shape[0];
            if (is_store) { if (is_there) memcpy(global, local, 16); }
            else if (is_there) memcpy(local, global, 16);
            else memset(local, 0, 16);
        }
    }
}

// Copies that were asked for.
struct Copy { TensorMap map; unsigned to, barrier; int first[4]; };
static Copy copies[256];
static int copy_count;
inline void forget_copies(unsigned barrier) {
    int kept = 0;
    for (int i = 0; i < copy_count; i++)
        if (copies[i].barrier != barrier) copies[kept++] = copies[i];
    copy_count = kept;
}
inline void do_copies(unsigned barrier) {
    for (int i = 0; i < copy_count; i++) {
        if (copies[i].barrier != barrier) continue;
        const TensorMap& map = copies[i].map;
        move_box(map, copies[i].to, copies[i].first, false);
        int bytes = map.itemsize;
        for (unsigned axis = 0; axis < map.rank; axis++) bytes *= map.box[axis];
        barrier_at(barrier).bytes -= bytes;
        barrier_at(barrier).settle();
    }
    forget_copies(barrier);
}

// A descriptor's rows are swizzled, in groups of eight.
inline unsigned start_of(unsigned long long matrix) { return (unsigned)(matrix & 0x3fff) << 4; }
inline unsigned row_bytes_of(unsigned long long matrix) {
    if (matrix >> 62 != 1 && matrix >> 62 != 2)
        fail("a matrix that is swizzled neither by 128 nor by 64 bytes");
    return matrix >> 62 == 1 ? 128 : 64;
}
inline unsigned group_of(unsigned long long matrix) {
    const unsigned bytes = (unsigned)(matrix >> 32 & 0x3fff) << 4;
    if (bytes != 8 * row_bytes_of(matrix)) fail("groups of rows that are not dense");
    return bytes;
}
// How far further right columns from 64 on lie.
inline unsigned leading_of(unsigned long long matrix) {
    return (unsigned)(matrix >> 16 & 0x3fff) << 4;
}
template <class T> inline float value_at(unsigned address, unsigned row_bytes = 128) {
    return to_float(*(const T*)shared_at(swizzled(address, row_bytes)));
}
// Where element i of a thread's part of a product [64, n] lies.
inline int row_of(int i) { return current % 128 / 32 * 16 + lane() / 4 + i / 2 % 2 * 8; }
inline int column_of(int i) { return i / 4 * 8 + lane() % 4 * 2 + i % 2; }

// d (+)= a b^T over 32 bytes of terms; rows of both in shared memory.
template <class T, int N>
void multiply_rows(float (&d)[N], unsigned long long a, unsigned long long b, int adds) {
    for (int i = 0; i < N; i++) {
        const int row = row_of(i), column = column_of(i);
        const unsigned bytes = row_bytes_of(a), terms = 32 / sizeof(T), size = sizeof(T);
        const unsigned left = start_of(a) + row / 8 * group_of(a) + row % 8 * bytes;
        const unsigned right = start_of(b) + column / 8 * group_of(b) + column % 8 * bytes;
        float sum = adds ? d[i] : 0.0f;
        for (unsigned k = 0; k < terms; k++)
            sum += value_at<T>(left + size * k, bytes) * value_at<T>(right + size * k, bytes);
        d[i] = sum;
    }
}

struct Fragment { const unsigned* words; };
template <class T> void share_fragment(const unsigned* own, float (&rows)[2][16]) {
    // Four lanes hold a row: words 0 and 2 are of the upper row, terms 2 t and 8 + 2 t.
    for (int word = 0; word < 4; word++)
        for (int other = 0; other < 4; other++) {
            const unsigned taken = __shfl_sync(0xffffffffu, own[word], (lane() & ~3) + other);
            for (int half = 0; half < 2; half++) {
                T value;
                value.bits = (unsigned short)(taken >> 16 * half);
                rows[word & 1][word / 2 * 8 + 2 * other + half] = to_float(value);
            }
        }
}
// d (+)= a b over 16 terms: a from registers, b [16, n] by rows in shared memory.
template <class T, int N>
void multiply_columns(float (&d)[N], const unsigned* a, unsigned long long b, int adds) {
    float rows[2][16];
    share_fragment<T>(a, rows);
    for (int i = 0; i < N; i++) {
        float sum = adds ? d[i] : 0.0f;
        for (int k = 0; k < 16; k++) {
            const unsigned from = start_of(b) + k / 8 * group_of(b) + k % 8 * 128;
            const unsigned right = column_of(i) / 64 * leading_of(b);
            sum += rows[i / 2 % 2][k] * value_at<T>(from + right + 2 * (column_of(i) % 64));
        }
        d[i] = sum;
    }
}
}  // namespace t2r_emulated

inline unsigned shared_address(const void* pointer) {
    return (unsigned)((const char*)pointer - (const char*)t2r_emulated::dynamic_shared);
}
inline void barrier_init(unsigned barrier, int count) {
    t2r_emulated::forget_copies(barrier);
    *(t2r_emulated::Barrier*)t2r_emulated::shared_at(barrier) =
        {(unsigned char)count, (unsigned char)count, 0, 0x5a, 0};
}
// What an earlier block left behind is gone.
inline void barriers_are_made() { memset(t2r_emulated::named, 0, sizeof(t2r_emulated::named)); }
inline void barrier_arrive(unsigned barrier) {
    t2r_emulated::arrive(t2r_emulated::barrier_at(barrier));
}
inline void barrier_expect(unsigned barrier, int bytes) {
    t2r_emulated::barrier_at(barrier).bytes += bytes;
    barrier_arrive(barrier);
}
inline void barrier_wait(unsigned barrier, int parity) {
    for (int spin = 0; t2r_emulated::barrier_at(barrier).phase == parity; spin++) {
        t2r_emulated::do_copies(barrier);
        if (t2r_emulated::barrier_at(barrier).phase != parity) return;
        if (spin == t2r_emulated::SPINS) t2r_emulated::fail("waits for ever for barrier %u", barrier);
        t2r_emulated::yield_thread();
    }
}
inline void load_matrix(
    unsigned to, const TensorMap* map, unsigned barrier, int row, int mid, int far
) {
    if (t2r_emulated::copy_count == 256) t2r_emulated::fail("256 copies under way");
    t2r_emulated::copies[t2r_emulated::copy_count++] = {*map, to, barrier, {0, row, mid, far}};
}
inline void store_matrix(const TensorMap* map, unsigned from, int row, int mid, int far) {
    const int first[] = {0, row, mid, far};
    t2r_emulated::move_box(*map, from, first, true);
}
inline void stores_commit() {}
inline void stores_have_read() {}
inline void stores_are_done() {}
inline void publish() {}
inline void put_word(unsigned at, unsigned word) {
    if (at % 4) t2r_emulated::fail("a word at %u", at);
    *(unsigned*)t2r_emulated::shared_at(at) = word;
}
inline void put_short(unsigned at, unsigned short value) {
    if (at % 2) t2r_emulated::fail("16 bits at %u", at);
    *(unsigned short*)t2r_emulated::shared_at(at) = value;
}
inline void take_floats(float (&values)[2], unsigned at) {
    if (at % 8) t2r_emulated::fail("two floats at %u", at);
    memcpy(values, t2r_emulated::shared_at(at), 8);
}
inline void named_arrive(int name, int threads) { t2r_emulated::named[name].arrive(threads); }
inline void named_sync(int name, int threads) {
    t2r_emulated::Named& barrier = t2r_emulated::named[name];
    const unsigned phase = barrier.phase;
    barrier.arrive(threads);
    for (int spin = 0; barrier.phase == phase; spin++) {
        if (spin == t2r_emulated::SPINS) t2r_emulated::fail("waits for ever for others: %d", name);
        t2r_emulated::yield_thread();
    }
}
inline void sums_begin() { __syncwarp(); }
inline void sums_commit() { __syncwarp(); }
template <int LEFT> inline void sums_wait() { __syncwarp(); }
template <int COUNT> inline void hold(float (&)[COUNT]) {}
template <int COUNT> inline void registers_down_to() {}
template <int COUNT> inline void registers_up_to() {}
inline float power_of_two(float x) { return exp2f(x); }
inline unsigned long long describe(unsigned address) {
    return (address & 0x3ffff) >> 4 | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}
