# features of interpolated fine-tuned backbone on all sets
import featlib, sys, time
from featlib import *
torch.set_num_threads(2)
al=float(sys.argv[1]); tag=sys.argv[2]
m=featlib.m; m0={k:v.clone() for k,v in m.state_dict().items()}
q=torch.load('ft_b3.pt',weights_only=False)['m']
m.load_state_dict({k:(m0[k]+al*(q[k]-m0[k]) if m0[k].is_floating_point() else m0[k]) for k in m0})
for n in ('dev','syn'):
    t=time.time(); xs,_=torch.load(f'{n}.pt',weights_only=False); np.save(f'{n}_{tag}.npy',feats([x.numpy() if torch.is_tensor(x) else x for x in xs],1)); print(n,time.time()-t,flush=True)
for r in 0,1:
    t=time.time(); np.save(f'pool{r}_{tag}.npy',feats(np.load(f'pool{r}/x.npy',mmap_mode='r'),8)); print('pool',time.time()-t,flush=True)
