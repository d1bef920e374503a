from featlib import *
import time, torch.nn.functional as F
torch.set_num_threads(2)
def half(v):
    x=torch.as_tensor(np.ascontiguousarray(v)); 
    if x.shape[-1]==3: x=x.permute(2,0,1)
    x=x.float()[None]/255
    y=F.interpolate(x,scale_factor=.5,mode='bilinear',antialias=True)
    return (y[0]*255).round().clamp(0,255).byte()
def run(ims,bs):
    out=[]
    for i in range(0,len(ims),bs):
        out.append(feats([half(v).numpy() for v in ims[i:i+bs]],bs))
    return np.concatenate(out)
for n in ('dev','syn'):
    t=time.time(); xs,_=torch.load(f'{n}.pt',weights_only=False); np.save(f'{n}_h.npy',run(xs,1)); print(n,time.time()-t,flush=True)
for r in 0,1:
    t=time.time(); np.save(f'pool{r}_h.npy',run(np.load(f'pool{r}/x.npy',mmap_mode='r'),8)); print('pool',time.time()-t,flush=True)
