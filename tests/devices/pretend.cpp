// A pretend accelerator for torch, so that what must hold on a GPU is tested where there is none.
//
// The memory and the arithmetic of the device "pretend" are the CPU's. Its manners are CUDA's: an
// operation that gets a tensor of the CPU beside one of its own raises, but for single numbers, and
// for the index of an indexing. What has no implementation here is checked so, and then computed by
// torch's own fallback to the CPU. It counts what is copied to it and from it, and what is read.
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

using at::Tensor;
using Size = c10::SymIntArrayRef;

namespace {

constexpr auto KEY = c10::DispatchKey::PrivateUse1;
int64_t to_device = 0, to_host = 0, reads = 0, drawn = 0;
thread_local bool inside = false;  // an operation of ours, whose own copies do not count

c10::Device device() { return c10::Device(c10::DeviceType::PrivateUse1, 0); }

// --- what torch asks of a device ----------------------------------------------------------------

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* place = bytes ? std::malloc(bytes) : nullptr;
    return {place, place, &std::free, device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Memory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::PrivateUse1; }
  c10::Device exchangeDevice(c10::Device) const override { return device(); }
  c10::Device getDevice() const override { return device(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device());
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto place = memory.allocate(bytes);
    std::memcpy(place.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(place));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
};

// --- tensors ------------------------------------------------------------------------------------

// A tensor of the CPU over the same memory.
Tensor on_cpu(const Tensor& t) {
  auto options = t.options().device(c10::kCPU).requires_grad(false);
  auto entries = static_cast<int64_t>(t.storage().nbytes() / t.itemsize());
  auto flat = at::from_blob(const_cast<void*>(t.storage().data()), {entries}, options);
  return flat.as_strided(t.sizes(), t.strides(), t.storage_offset());
}

Tensor empty(
    c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  auto keys = c10::DispatchKeySet(KEY);
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  auto keys = c10::DispatchKeySet(KEY);
  return at::detail::empty_strided_generic(
      size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

Tensor copied(const Tensor& from, const Tensor& to) {
  Tensor source = from.is_cpu() ? from : on_cpu(from), target = to.is_cpu() ? to : on_cpu(to);
  c10::InferenceMode off(false);
  at::NoGradGuard without;
  target.copy_(source);
  return to;
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (!inside && from.is_cpu() && from.numel()) ++to_device;
  if (!inside && to.is_cpu() && from.numel()) ++to_host;
  return copied(from, to);
}

void resize(const Tensor& t, c10::IntArrayRef size) {
  if (t.sizes() == size) return;
  auto fresh = empty(size, t.scalar_type(), {}, {}, {}, {});
  t.unsafeGetTensorImpl()->set_storage_keep_dtype(c10::Storage(fresh.storage()));
  t.unsafeGetTensorImpl()->set_sizes_and_strides(fresh.sizes(), fresh.strides(), 0);
}

at::Scalar number(const Tensor& t) {
  if (!inside) ++reads;
  return on_cpu(t).item();
}

Tensor as_strided(const Tensor& t, Size size, Size stride, std::optional<c10::SymInt> offset) {
  auto found = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(t.storage()), t.key_set(), t.dtype());
  auto first = offset ? offset->expect_int() : t.storage_offset();
  found.unsafeGetTensorImpl()->set_sizes_and_strides(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), first);
  return found;
}

Tensor moved(const Tensor& t) {
  if (!t.defined()) return t;
  return copied(t, empty(t.sizes(), t.scalar_type(), {}, {}, {}, {}));
}

// --- convolutions, which torch leaves to each device --------------------------------------------

void check_together(std::initializer_list<Tensor> tensors) {
  for (const auto& t : tensors)
    TORCH_CHECK(!t.defined() || !t.is_cpu(), "Expected all tensors to be on the same device, but a "
                "convolution got one on the CPU beside the pretend device");
}

Tensor convolution(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, Size stride,
    Size padding, Size dilation, bool transposed, Size output_padding, c10::SymInt groups) {
  check_together({x, weight, bias.value_or(Tensor())});
  std::optional<Tensor> offset;
  if (bias && bias->defined()) offset = on_cpu(*bias);
  return moved(at::convolution_symint(
      on_cpu(x), on_cpu(weight), offset, stride, padding, dilation, transposed, output_padding,
      groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& weight, Size stride, Size padding,
    Size dilation, bool transposed, Size output_padding, c10::SymInt groups,
    std::array<bool, 3> wanted) {
  check_together({gradient, x, weight});
  std::vector<c10::SymInt> width{weight.size(0)};
  auto [by_x, by_weight, by_bias] = at::convolution_backward_symint(
      on_cpu(gradient), on_cpu(x), on_cpu(weight), Size(width), stride, padding, dilation,
      transposed, output_padding, groups, wanted);
  return {moved(by_x), moved(by_weight), moved(by_bias)};
}

// --- everything else ----------------------------------------------------------------------------

void check(const c10::OperatorHandle& op, const c10::IValue& value, bool indexing) {
  if (value.isTensor()) {
    const auto& t = value.toTensor();
    auto type = t.defined() ? t.scalar_type() : at::kFloat;
    bool index = indexing && (type == at::kLong || type == at::kBool);
    TORCH_CHECK(!(t.defined() && t.is_cpu() && t.dim() > 0 && !index),
                "Expected all tensors to be on the same device, but ", op.schema().operator_name(),
                " got one of shape ", t.sizes(), " on the CPU beside the pretend device");
  } else if (value.isTensorList()) {
    for (const auto& t : value.toTensorVector()) check(op, t, indexing);
  } else if (value.isList()) {
    for (const auto& entry : value.toListRef()) check(op, entry, indexing);
  }
}

bool draws(const std::string& name) {
  for (auto word : {"rand", "normal_", "uniform_", "bernoulli", "multinomial", "exponential_",
                    "dropout", "geometric_"})
    if (name.find(word) != std::string::npos) return true;
  return false;
}

// Whether an operation waits for the device, since the size of its answer depends on the numbers.
bool waits(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto& name = op.schema().name();
  for (auto word : {"aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique",
                    "aten::unique", "aten::bincount", "aten::repeat_interleave"})
    if (name.rfind(word, 0) == 0) return true;
  if (name.rfind("aten::index", 0) != 0 && name.rfind("aten::_index_put", 0) != 0) return false;
  for (const auto& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (!value.isList() || value.isTensorList()) continue;
    for (const auto& entry : value.toListRef())
      if (entry.isTensor() && entry.toTensor().defined() &&
          entry.toTensor().scalar_type() == at::kBool)
        return true;
  }
  return false;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& name = op.schema().name();
  bool indexing = name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index", 0) == 0;
  if (draws(name)) ++drawn;
  if (!inside && waits(op, *stack)) ++reads;
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size()))
    check(op, value, indexing);
  bool before = std::exchange(inside, true);
  try {
    at::native::cpu_fallback(op, stack);
  } catch (...) {
    inside = before;
    throw;
  }
  inside = before;
}

void start() {
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &memory);
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", [](const Tensor& from, const Tensor& to) {
    resize(to, from.sizes());
    return copied(from, to);
  });
  m.impl("resize_", [](const Tensor& t, Size size, std::optional<at::MemoryFormat>) -> const Tensor& {
    resize(t, C10_AS_INTARRAYREF_SLOW(size));
    return t;
  });
  m.impl("_local_scalar_dense", &number);
  m.impl("as_strided", &as_strided);
  m.impl("view", [](const Tensor& t, Size size) {
    return at::native::view(t, C10_AS_INTARRAYREF_SLOW(size));
  });
  m.impl("_reshape_alias", [](const Tensor& t, Size size, Size stride) {
    return as_strided(t, size, stride, t.storage_offset());
  });
  m.impl("unfold", [](const Tensor& t, int64_t axis, int64_t size, int64_t step) {
    return at::native::unfold(t, axis, size, step);
  });
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

TORCH_LIBRARY(pretend, m) {
  m.def("start() -> ()", &start);
  // Copies to the device and from it, waits for numbers, and random draws on it, until now.
  m.def("counts() -> int[]", [] {
    return std::vector<int64_t>{to_device, to_host, reads, drawn};
  });
}
