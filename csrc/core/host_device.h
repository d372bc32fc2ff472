// What is compiled for the host and, by nvcc, for the device too.

#ifndef JAX_ROIPOOL_CSRC_CORE_HOST_DEVICE_H_
#define JAX_ROIPOOL_CSRC_CORE_HOST_DEVICE_H_

#if defined(__CUDACC__)
#define JAX_ROIPOOL_HOST_DEVICE __host__ __device__
#else
#define JAX_ROIPOOL_HOST_DEVICE
#endif

#endif  // JAX_ROIPOOL_CSRC_CORE_HOST_DEVICE_H_
