/* SPDX-License-Identifier: GPL-2.0 */
/* Inline functions and macros of the kernel, as functions that Rust can call. No policy here. */
#ifndef SEMIASSIGN_VFIO_HELPERS_H
#define SEMIASSIGN_VFIO_HELPERS_H

#include <linux/iommu.h>
#include <linux/types.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

struct task_struct;

void vfio_helper_get_device(struct vfio_device *vdev);
void vfio_helper_put_device(struct vfio_device *vdev);
void __iomem *vfio_helper_iomap(struct vfio_pci_core_device *core, unsigned int bar);
void vfio_helper_zap(struct vfio_device *vdev, loff_t start, loff_t len);
vm_fault_t vfio_helper_fault_again(struct vm_fault *vmf);
bool vfio_helper_is_iommufd(struct vfio_device *vdev);

u32 vfio_helper_readl(const void __iomem *addr);
void vfio_helper_writel(u32 val, void __iomem *addr);
u32 vfio_helper_read_once(const void *addr);
void vfio_helper_write_once(u32 val, void *addr);
void vfio_helper_copy(void *to, const void *from, size_t len);
void vfio_helper_dma_rmb(void);
void vfio_helper_smp_wmb(void);

void *vfio_helper_kvzalloc(size_t bytes);
void vfio_helper_kvfree(void *mem);
phys_addr_t vfio_helper_phys(const void *mem);
void *vfio_helper_alloc_page(void);
void vfio_helper_free_page(void *page);
unsigned long vfio_helper_pfn(const void *page);

struct iommu_domain *vfio_helper_user_domain(struct device *dev);
struct iommu_domain *vfio_helper_paging_domain(struct device *dev);
void vfio_helper_enforce_coherency(struct iommu_domain *domain, struct device *dev);
u64 vfio_helper_aperture_end(struct iommu_domain *domain);
unsigned int vfio_helper_group_devices(struct iommu_group *group);
bool vfio_helper_iova_is_reserved(struct iommu_group *group, u64 start, u64 end);
bool vfio_helper_mem_is_encrypted(void);

bool vfio_helper_may_log(void);
struct task_struct *vfio_helper_kthread_run(int (*fn)(void *data), void *data, const char *name);
void vfio_helper_sleep(u64 ns, u32 *woken);

int vfio_helper_pin_once(struct vfio_device *vdev, dma_addr_t iova);
void vfio_helper_mark_dirty(struct iova_bitmap *bitmap, unsigned long iova, size_t len);

struct file *vfio_helper_data_file(const char *name, const struct file_operations *fops, void *data, bool write);

#endif
