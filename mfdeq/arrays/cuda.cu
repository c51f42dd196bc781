// What a Krylov iteration and a multigrid cycle are made of, each reading memory once.
//
// Vectors are blocks of k columns, stored row after row; the threads of a launch are a multiple of
// k, so that each stays in one column. Whoever compiles this defines `real` and `index`. Nothing
// is added up by atomics: the same input gives the same bits.

typedef long long integer;
#define THREAD ((integer)blockIdx.x * blockDim.x + threadIdx.x)
#define THREADS ((integer)gridDim.x * blockDim.x)

// y = A x, or y + sign A x: `lanes` neighbouring threads, a power of two up to 32, share a row.
extern "C" __global__ void csr_vector(const index *starts, const index *columns, const real *values,
                                      const real *x, real *y, integer rows, int lanes, int sign) {
    int lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = blockDim.x / lanes;
    // Every thread of a warp goes round as often: a shuffle waits for all of them.
    for (integer first = (integer)blockIdx.x * teams; first < rows;
         first += (integer)gridDim.x * teams) {
        integer row = first + team;
        real sum = 0;
        if (row < rows)
            for (index e = starts[row] + lane; e < starts[row + 1]; e += lanes)
                sum += values[e] * x[columns[e]];
        for (int offset = lanes / 2; offset > 0; offset /= 2)
            sum += __shfl_down_sync(0xffffffffu, sum, offset, lanes);
        if (row < rows && lane == 0) y[row] = sign ? y[row] + sign * sum : sum;
    }
}

// Y = A X, or Y + sign A X: a thread for each number, so that neighbours read neighbours.
extern "C" __global__ void csr_block(const index *starts, const index *columns, const real *values,
                                     const real *X, real *Y, integer rows, int k, int sign) {
    integer j = THREAD % k;
    for (integer row = THREAD / k; row < rows; row += THREADS / k) {
        real sum = 0;
        for (index e = starts[row]; e < starts[row + 1]; ++e)
            sum += values[e] * X[(integer)columns[e] * k + j];
        real *y = Y + row * k + j;
        *y = sign ? *y + sign * sum : sum;
    }
}

// Inner products of columns: a sum for each thread, of the rows that it meets.
extern "C" __global__ void column_dots(const real *x, const real *y, real *sums, integer size) {
    real sum = 0;
    for (integer i = THREAD; i < size; i += THREADS) sum += x[i] * y[i];
    sums[THREAD] = sum;
}

// X += P step, R -= Q step, and the sums of R R.
extern "C" __global__ void advance(real *X, real *R, const real *P, const real *Q, const real *step,
                                   real *sums, integer size, int k) {
    real sum = 0, s = step[THREAD % k];
    for (integer i = THREAD; i < size; i += THREADS) {
        X[i] += s * P[i];
        real r = R[i] - s * Q[i];
        R[i] = r;
        sum += r * r;
    }
    sums[THREAD] = sum;
}

// P = Z + P ratio.
extern "C" __global__ void redirect(real *P, const real *Z, const real *ratio, integer size,
                                    int k) {
    real s = ratio[THREAD % k];
    for (integer i = THREAD; i < size; i += THREADS) P[i] = Z[i] + s * P[i];
}

// D = a D + c (w R), X += D: a step of a Chebyshev polynomial, w a weight for each row.
extern "C" __global__ void chebyshev(real *D, real *X, const real *R, const real *weights, real a,
                                     real c, integer rows, int k) {
    integer j = THREAD % k;
    for (integer row = THREAD / k; row < rows; row += THREADS / k) {
        integer i = row * k + j;
        real d = a * D[i] + c * weights[row] * R[i];
        D[i] = d;
        X[i] += d;
    }
}
