#include "cuda/gaussian_prior_labels.cuh"

#include "entry.h"

namespace {

using namespace wsolfast::cuda;

// `codes` are GaussianPrior's in the order of the op's schema.
template <typename Pixel>
const char* label(const Pixel* cams, int64_t count, int64_t h, int64_t w, int64_t height, int64_t width,
                  const double* codes, uint8_t* labels) {
  return cuda_emulator::reported([&] {
    const ResizeShape shape{static_cast<int>(h), static_cast<int>(w), static_cast<int>(height),
                            static_cast<int>(width)};
    const wsolfast::gaussian_prior::Rule rule{codes[0], codes[1], codes[2] != 0, codes[3], codes[4],      codes[5] != 0,
                                              codes[6], codes[7], codes[8],      codes[9], codes[10] != 0};
    std::vector<double> axis_sums(static_cast<size_t>(3 * (h + w)), std::nan(""));
    std::vector<double> scaled(static_cast<size_t>(count * h * w), std::nan(""));
    gaussian_prior_labels(cuda_emulator::Launcher{}, cams, count, shape, rule, axis_sums.data(), scaled.data(), labels);
  });
}

}  // namespace

WSOLFAST_ENTRY const char* gaussian_prior_labels_f32(const float* cams, int64_t count, int64_t h, int64_t w,
                                                     int64_t height, int64_t width, const double* codes,
                                                     uint8_t* labels) {
  return label(cams, count, h, w, height, width, codes, labels);
}

WSOLFAST_ENTRY const char* gaussian_prior_labels_f64(const double* cams, int64_t count, int64_t h, int64_t w,
                                                     int64_t height, int64_t width, const double* codes,
                                                     uint8_t* labels) {
  return label(cams, count, h, w, height, width, codes, labels);
}
