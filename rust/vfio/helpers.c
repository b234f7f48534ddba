// SPDX-License-Identifier: GPL-2.0

#include <linux/anon_inodes.h>
#include <linux/cc_platform.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/iova_bitmap.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "helpers.h"

void vfio_helper_get_device(struct vfio_device *vdev)
{
	get_device(&vdev->device);
}

void vfio_helper_put_device(struct vfio_device *vdev)
{
	vfio_put_device(vdev);
}

/* The mapped BAR, or NULL: what could not be mapped is an error pointer. */
void __iomem *vfio_helper_iomap(struct vfio_pci_core_device *core, unsigned int bar)
{
	void __iomem *base = bar < PCI_STD_NUM_BARS ? core->barmap[bar] : NULL;

	return IS_ERR((const void __force *)base) ? NULL : base;
}

void vfio_helper_zap(struct vfio_device *vdev, loff_t start, loff_t len)
{
	unmap_mapping_range(vdev->inode->i_mapping, start, len, true);
}

/*
 * Has a fault that was served be taken again, if its taker allows that, to see that it is still served.
 *
 * Who follows page tables for a PFN, KVM and type1's pinning, looks once more after a fault, and takes an entry that a
 * zap has removed in between for a wrong address: a virtual CPU ends with EFAULT. After a retry they begin anew.
 */
vm_fault_t vfio_helper_fault_again(struct vm_fault *vmf)
{
	if (!fault_flag_allow_retry_first(vmf->flags) ||
	    (vmf->flags & (FAULT_FLAG_RETRY_NOWAIT | FAULT_FLAG_VMA_LOCK)))
		return VM_FAULT_NOPAGE;
	mmap_read_unlock(vmf->vma->vm_mm);
	return VM_FAULT_RETRY;
}

bool vfio_helper_is_iommufd(struct vfio_device *vdev)
{
#if IS_ENABLED(CONFIG_IOMMUFD)
	return vdev->iommufd_device;
#else
	return false;
#endif
}

u32 vfio_helper_readl(const void __iomem *addr)
{
	return readl(addr);
}

void vfio_helper_writel(u32 val, void __iomem *addr)
{
	writel(val, addr);
}

u32 vfio_helper_read_once(const void *addr)
{
	return READ_ONCE(*(const u32 *)addr);
}

void vfio_helper_write_once(u32 val, void *addr)
{
	WRITE_ONCE(*(u32 *)addr, val);
}

void vfio_helper_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

void vfio_helper_dma_rmb(void)
{
	dma_rmb();
}

void vfio_helper_smp_wmb(void)
{
	smp_wmb();
}

void *vfio_helper_kvzalloc(size_t bytes)
{
	return kvzalloc(bytes, GFP_KERNEL_ACCOUNT);
}

void vfio_helper_kvfree(void *mem)
{
	kvfree(mem);
}

phys_addr_t vfio_helper_phys(const void *mem)
{
	return page_to_phys(is_vmalloc_addr(mem) ? vmalloc_to_page(mem) : virt_to_page(mem));
}

void *vfio_helper_alloc_page(void)
{
	return (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
}

void vfio_helper_free_page(void *page)
{
	free_page((unsigned long)page);
}

unsigned long vfio_helper_pfn(const void *page)
{
	return page_to_pfn(virt_to_page(page));
}

/* The domain a user of VFIO made for @dev, or NULL if it is any other. */
struct iommu_domain *vfio_helper_user_domain(struct device *dev)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);

	return domain && domain->type == IOMMU_DOMAIN_UNMANAGED ? domain : NULL;
}

struct iommu_domain *vfio_helper_paging_domain(struct device *dev)
{
	return iommu_paging_domain_alloc(dev);
}

/* Before anything is mapped. A domain with no device yet says yes for an IOMMU that cannot, so ask it. */
void vfio_helper_enforce_coherency(struct iommu_domain *domain, struct device *dev)
{
	if (domain->ops->enforce_cache_coherency &&
	    device_iommu_capable(dev, IOMMU_CAP_ENFORCE_CACHE_COHERENCY))
		domain->ops->enforce_cache_coherency(domain);
}

u64 vfio_helper_aperture_end(struct iommu_domain *domain)
{
	return domain->geometry.aperture_end;
}

static int count_device(struct device *dev, void *count)
{
	++*(unsigned int *)count;
	return 0;
}

unsigned int vfio_helper_group_devices(struct iommu_group *group)
{
	unsigned int count = 0;

	iommu_group_for_each_dev(group, &count, count_device);
	return count;
}

/* Whether any reserved region of @group meets [@start, @end]; an unknown answer is yes. */
bool vfio_helper_iova_is_reserved(struct iommu_group *group, u64 start, u64 end)
{
	struct iommu_resv_region *region, *next;
	LIST_HEAD(regions);
	bool meets = iommu_get_group_resv_regions(group, &regions) != 0;

	list_for_each_entry_safe(region, next, &regions, list) {
		if (region->start <= end && region->start + region->length > start)
			meets = true;
		list_del(&region->list);
		kfree(region);
	}
	return meets;
}

bool vfio_helper_mem_is_encrypted(void)
{
	return cc_platform_has(CC_ATTR_MEM_ENCRYPT);
}

/* Whether one more message that a user can provoke may be logged. */
bool vfio_helper_may_log(void)
{
	static DEFINE_RATELIMIT_STATE(messages, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&messages);
}

struct task_struct *vfio_helper_kthread_run(int (*fn)(void *data), void *data, const char *name)
{
	return kthread_run(fn, data, "%s", name);
}

/*
 * Sleeps for @ns (for ever if 0), until woken or until the kthread shall stop. @woken is set before the
 * thread is woken, so that it is not lost on the way to sleep.
 */
void vfio_helper_sleep(u64 ns, u32 *woken)
{
	ktime_t timeout = ns_to_ktime(ns);

	set_current_state(TASK_IDLE);
	if (!kthread_should_stop() && !READ_ONCE(*woken))
		schedule_hrtimeout_range(ns ? &timeout : NULL, ns / 4, HRTIMER_MODE_REL);
	__set_current_state(TASK_RUNNING);
	WRITE_ONCE(*woken, 0);
}

int vfio_helper_pin_once(struct vfio_device *vdev, dma_addr_t iova)
{
	struct page *page;
	int ret = vfio_pin_pages(vdev, iova, 1, IOMMU_READ | IOMMU_WRITE, &page);

	if (ret != 1)
		return ret < 0 ? ret : -EFAULT;
	vfio_unpin_pages(vdev, iova, 1);
	return 0;
}

void vfio_helper_mark_dirty(struct iova_bitmap *bitmap, unsigned long iova, size_t len)
{
	iova_bitmap_set(bitmap, iova, len);
}

struct file *vfio_helper_data_file(const char *name, const struct file_operations *fops, void *data, bool write)
{
	struct file *file = anon_inode_getfile(name, fops, data, write ? O_WRONLY : O_RDONLY);

	if (!IS_ERR(file))
		stream_open(file_inode(file), file);
	return file;
}
