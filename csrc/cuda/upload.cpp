// SPDX-License-Identifier: Apache-2.0
#include "cuda/upload.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace lightwam::cuda {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

// A page-locked buffer, and the event after which it may be filled again.
class UploadBuffer {
  public:
    UploadBuffer(const Driver& driver, Stream stream)
        : driver_(driver),
          stream_(stream),
          block_(driver, kPieceBytes, false, "loading the weights"),
          copied_(driver) {}
    ~UploadBuffer() { driver_.stream_synchronize(stream_); }  // copies may still read the buffer
    UploadBuffer(const UploadBuffer&) = delete;
    UploadBuffer& operator=(const UploadBuffer&) = delete;

    std::byte* acquire() {
        if (in_flight_) check(driver_, driver_.event_synchronize(copied_.handle()), "copying the weights to the GPU");
        in_flight_ = false;
        return block_.data();
    }
    void copy(DeviceAddress destination, std::size_t bytes) {
        const char* const what = "copying the weights to the GPU";
        check(driver_, driver_.memcpy_htod_async(destination, block_.data(), bytes, stream_), what);
        check(driver_, driver_.event_record(copied_.handle(), stream_), what);
        in_flight_ = true;
    }

  private:
    const Driver& driver_;
    Stream stream_;
    PinnedBlock block_;
    EventOwner copied_;
    bool in_flight_ = false;
};

}  // namespace

std::vector<std::byte> read_tensor(const engine::EngineFile& file, std::size_t tensor) {
    const engine::Tensor& source = file.graph().tensors[tensor];
    std::vector<std::byte> bytes(source.bytes);
    const engine::PieceReport report = file.read(source, 0, bytes.size(), bytes.data());
    file.check_numbers(source, {&report, 1});
    return bytes;
}

void upload_weights(const engine::EngineFile& file, const Driver& driver, Stream stream, DeviceAddress weights,
                    HostConstants& kept, std::size_t done) {
    const std::vector<engine::Tensor>& tensors = file.graph().tensors;
    std::vector<std::vector<std::uint64_t>> places(tensors.size());
    for (const engine::PlanWeight& weight : file.launch_plan()->weights) places[weight.tensor].push_back(weight.offset);
    std::vector<std::size_t> order(tensors.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    // In the order of the file, which the system reads ahead.
    std::ranges::sort(order, {}, [&](std::size_t index) { return tensors[index].offset; });

    UploadBuffer first(driver, stream);
    UploadBuffer second(driver, stream);
    const std::array<UploadBuffer*, 2> buffers = {&first, &second};
    std::size_t turn = 0;
    std::vector<engine::PieceReport> reports;
    for (const std::size_t index : order) {
        if (index == done) continue;
        const engine::Tensor& tensor = tensors[index];
        const auto keep = kept.find(index);
        if (keep != kept.end()) keep->second.resize(tensor.bytes);
        reports.clear();
        for (std::size_t begin = 0; begin < tensor.bytes; begin += kPieceBytes) {
            const std::size_t bytes = std::min(kPieceBytes, tensor.bytes - begin);
            if (begin % (kPieceBytes * 16) == 0) file.opening();
            UploadBuffer& buffer = *buffers[turn++ % 2];
            std::byte* const data = buffer.acquire();
            reports.push_back(file.read(tensor, begin, bytes, data));
            if (reports.back().read_error != 0) break;
            for (const std::uint64_t offset : places[index]) buffer.copy(weights + offset + begin, bytes);
            if (keep != kept.end()) std::memcpy(keep->second.data() + begin, data, bytes);
        }
        file.check_numbers(tensor, reports);
    }
    check(driver, driver.stream_synchronize(stream), "copying the weights to the GPU");
}

}  // namespace lightwam::cuda
